r"""Gemma 3 27B (text) from scratch, sequence 8192.

Gemma's report gives no learning rate; 2e-4 is the field's for this size.

Look before you rent, on any machine (the slice is the variant):
  jaxllm plan --config=configs/gemma3_27b.py:v5p-128
  jaxllm check --config=configs/gemma3_27b.py:v5p-128
Prepare the data with Gemma 3's tokenizer:
  jaxllm prepare --config=configs/data/text.py --workdir=data/text \
    --config.input.paths="('corpus/*.jsonl',)" --config.tokenizer.path=models/gemma-3-27b-pt

`:debug` wants the bundled text instead:
  jaxllm prepare --config=configs/data/shakespeare.py:special --workdir=data/shakespeare
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, on_slice, shrink

BATCH, REMAT = "data.global_batch_size", "train.remat"
SLICES = {
    "v5p-128": {BATCH: 128, REMAT: "projections"},
    "v6e-256": {BATCH: 256, REMAT: "full"},
}


def get_config(variant: str = ""):
    """The recipe; variants: the slices above, debug (seconds on a CPU)."""
    check_variant(variant, (*SLICES, "debug"))
    config = default_config()
    config.model.preset = "gemma3_27b"
    config.data.sequence_length = 8192
    config.optimizer.update(learning_rate=2e-4, warmup_steps=2000, final_fraction=0.1)
    config.train.steps = 500_000
    on_slice(config, variant, SLICES)
    if variant == "debug":
        shrink(config, "gemma3_debug")
    return config
