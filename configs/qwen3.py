r"""Qwen3 0.6B from scratch: QK-norm, grouped queries, tied embeddings.

The learning rate is ours; the paper (arXiv:2505.09388) names none.

Prepare the data first, with Qwen's tokenizer or one of your own:
  jaxllm prepare --config=configs/data/text.py --workdir=data/text \
    --config.input.paths="('corpus/*.jsonl',)"
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, shrink


def get_config(variant: str = ""):
    """The recipe; variant: debug (seconds on a CPU)."""
    check_variant(variant, ("debug",))
    config = default_config()
    config.model.preset = "qwen3_0.6b"
    config.model.vocab_size = 0  # the tokenizer's
    config.data.mixture = {"text": {"path": "data/text", "weight": 1.0}}
    config.data.sequence_length = 4096
    config.data.global_batch_size = 128
    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_steps = 2000
    config.train.steps = 24_000
    config.train.remat = "full"
    config.train.eval_every = 1000
    config.checkpoint.every = 1000
    if variant == "debug":
        shrink(config, "qwen3_debug")
    return config
