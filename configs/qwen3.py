r"""Qwen3 0.6B from scratch: QK-norm, grouped queries, tied embeddings.

The learning rate is ours; the paper (arXiv:2505.09388) names none.

Prepare the data first, with Qwen's tokenizer or one of your own:
  jaxllm prepare --config=configs/data/text.py --workdir=data/text \
    --config.input.paths="('corpus/*.jsonl',)"

`:debug` wants the bundled text instead:
  jaxllm prepare --config=configs/data/shakespeare.py:special --workdir=data/shakespeare
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, pretrain, shrink


def get_config(variant: str = ""):
    """The recipe; variant: debug (seconds on a CPU)."""
    check_variant(variant, ("debug",))
    config = default_config()
    pretrain(
        config, "qwen3_0.6b", length=4096, batch=128, rate=3e-4, warmup=2000,
        steps=24_000,
    )
    config.train.remat = "full"
    config.train.eval_every = 1000
    config.checkpoint.every = 1000
    if variant == "debug":
        shrink(config, "qwen3_debug")
    return config
