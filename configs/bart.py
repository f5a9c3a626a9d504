r"""BART base from scratch by denoising: shuffled sentences, masked spans.

The noise is the paper's (arXiv:1910.13461); AdamW as for RoBERTa.

Prepare the data first, with a mask token:
  jaxllm prepare --config=configs/data/text.py --workdir=data/text \
    --config.input.paths="('corpus/*.jsonl',)" \
    --config.tokenizer.mask=True
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, shrink


def get_config(variant: str = ""):
    """The recipe; variant: debug (seconds on a CPU)."""
    check_variant(variant, ("debug",))
    config = default_config()
    config.model.preset = "bart_base"
    config.model.vocab_size = 0  # the tokenizer's
    config.data.mixture = {"text": {"path": "data/text", "weight": 1.0}}
    config.data.objective = "denoising"
    config.data.sequence_length = 512
    config.data.global_batch_size = 256
    config.optimizer.learning_rate = 4e-4
    config.optimizer.schedule = "linear"
    config.optimizer.final_fraction = 0.0
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    config.optimizer.weight_decay = 0.01
    config.optimizer.warmup_steps = 10_000
    config.train.steps = 500_000
    config.train.eval_every = 10_000
    config.checkpoint.every = 5000
    if variant == "debug":
        shrink(config, "bart_debug")
    return config
