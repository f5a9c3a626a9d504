r"""GPT-2 124M from scratch, as nanoGPT reproduces it: 0.5M tokens a step.

AdamW 0.9/0.95 at 6e-4, cosine to a tenth, weight decay 0.1.

Prepare the data first, with GPT-2's tokenizer or one of your own:
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
        config, "gpt2", length=1024, batch=480, rate=6e-4, warmup=2000,
        steps=600_000,
    )
    config.train.remat = "full"
    config.train.eval_every = 1000
    config.checkpoint.every = 1000
    config.data.block_cross_document_attention = False  # as GPT-2 was trained
    if variant == "debug":
        shrink(config, "gpt2_debug")
    return config
