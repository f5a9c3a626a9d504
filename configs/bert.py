r"""BERT base from scratch by masked language modelling.

As RoBERTa trains it (arXiv:1907.11692): a fresh mask each epoch, no next-sentence task, full rows
of 512; the peak rate 1e-4 and 10,000 steps of warm-up are BERT's.

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
    config.model.preset = "bert_base_uncased"
    config.model.vocab_size = 0  # the tokenizer's
    config.data.mixture = {"text": {"path": "data/text", "weight": 1.0}}
    config.data.objective = "masked"
    config.data.sequence_length = 512
    config.data.global_batch_size = 256
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "linear"
    config.optimizer.final_fraction = 0.0
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.01
    config.optimizer.warmup_steps = 10_000
    config.train.steps = 1_000_000
    config.train.eval_every = 10_000
    config.checkpoint.every = 5000
    if variant == "debug":
        shrink(config, "bert_debug")
    return config
