r"""BART base from scratch by denoising: shuffled sentences, masked spans.

The noise is the paper's (arXiv:1910.13461); AdamW as for RoBERTa.

Prepare the data first, with a mask token:
  jaxllm prepare --config=configs/data/text.py --workdir=data/text \
    --config.input.paths="('corpus/*.jsonl',)" \
    --config.tokenizer.mask=True

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
        config, "bart_base", length=512, batch=256, rate=4e-4, warmup=10_000,
        steps=500_000,
    )
    config.data.objective = "denoising"
    config.optimizer.schedule = "linear"
    config.optimizer.final_fraction = 0.0
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    config.optimizer.weight_decay = 0.01
    config.train.eval_every = 10_000
    config.checkpoint.every = 5000
    if variant == "debug":
        shrink(config, "bart_debug")
    return config
