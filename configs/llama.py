r"""Llama 3.2 1B from scratch: 0.5M tokens a step, Chinchilla's 20 tokens a parameter.

Hyperparameters follow Llama 2 7B (arXiv:2307.09288): AdamW 0.9/0.95, cosine to a tenth, clip 1.

Prepare the data first, with a tokenizer of your language:
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
        config, "llama3.2_1b", length=4096, batch=128, rate=3e-4, warmup=2000,
        steps=48_000,
    )
    config.train.remat = "full"
    config.train.eval_every = 1000
    config.checkpoint.every = 1000
    if variant == "debug":
        shrink(config, "llama_debug")
    return config
