r"""BERT base from scratch by masked language modelling.

As RoBERTa trains it (arXiv:1907.11692): a fresh mask each epoch, no next-sentence task, full rows
of 512; the peak rate 1e-4 and 10,000 steps of warm-up are BERT's.

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
        config, "bert_base_uncased", length=512, batch=256, rate=1e-4, warmup=10_000,
        steps=1_000_000,
    )
    config.data.objective = "masked"
    config.optimizer.schedule = "linear"
    config.optimizer.final_fraction = 0.0
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.01
    config.train.eval_every = 10_000
    config.checkpoint.every = 5000
    if variant == "debug":
        shrink(config, "bert_debug")
    return config
