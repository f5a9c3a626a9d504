r"""Gemma 3 1B from scratch: five local layers to one global, QK-norm.

The learning rate is ours; the paper (arXiv:2503.19786) names none.

Prepare the data first, with Gemma's tokenizer or one of your own:
  jaxllm prepare --config=configs/data/text.py --workdir=data/text \
    --config.input.paths="('corpus/*.jsonl',)"
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, shrink


def get_config(variant: str = ""):
    """The recipe; variant: debug (seconds on a CPU)."""
    check_variant(variant, ("debug",))
    config = default_config()
    config.model.preset = "gemma3_1b"
    config.model.vocab_size = 0  # the tokenizer's
    config.data.mixture = {"text": {"path": "data/text", "weight": 1.0}}
    config.data.sequence_length = 4096
    config.data.global_batch_size = 128
    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_steps = 2000
    config.train.steps = 48_000
    config.train.remat = "full"
    config.train.eval_every = 1000
    config.checkpoint.every = 1000
    if variant == "debug":
        shrink(config, "gemma3_debug")
    return config
