r"""BERT-large by masked language modelling from scratch, 512 tokens.

Hyperparameters follow RoBERTa's repetition of BERT (arXiv:1907.11692): peak 4e-4, 30,000 steps of
warm-up, linear.

Look before you rent, on any machine (the slice is the variant):
  jaxllm plan --config=configs/bert_large.py:v5e-16
  jaxllm check --config=configs/bert_large.py:v5e-16
Prepare the data with BERT's tokenizer:
  jaxllm prepare --config=configs/data/text.py --workdir=data/text \
    --config.input.paths="('corpus/*.jsonl',)" --config.tokenizer.path=models/bert-large-uncased

`:debug` wants the bundled text instead:
  jaxllm prepare --config=configs/data/shakespeare.py:special --workdir=data/shakespeare
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, on_slice, shrink

BATCH, REMAT = "data.global_batch_size", "train.remat"
SLICES = {
    "v5e-16": {BATCH: 1024, REMAT: "projections"},
}


def get_config(variant: str = ""):
    """The recipe; variants: the slices above, debug (seconds on a CPU)."""
    check_variant(variant, (*SLICES, "debug"))
    config = default_config()
    config.model.preset = "bert_large_uncased"
    config.data.sequence_length = 512
    config.data.objective = "masked"
    config.optimizer.update(schedule="linear", weight_decay=0.01, b2=0.98, eps=1e-6)
    config.optimizer.update(learning_rate=4e-4, warmup_steps=30000, final_fraction=0.0)
    config.train.steps = 500_000
    on_slice(config, variant, SLICES)
    if variant == "debug":
        shrink(config, "bert_debug")
    return config
