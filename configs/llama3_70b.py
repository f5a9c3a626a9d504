r"""Llama 3.1 70B from scratch, sequence 8192.

Hyperparameters follow Llama 3 (arXiv:2407.21783, table 3): peak 1.5e-4, 8,000 steps of
warm-up, cosine.

Look before you rent, on any machine (the slice is the variant):
  jaxllm plan --config=configs/llama3_70b.py:v5p-256
  jaxllm check --config=configs/llama3_70b.py:v5p-256
Prepare the data with Llama 3's tokenizer:
  jaxllm prepare --config=configs/data/text.py --workdir=data/text \
    --config.input.paths="('corpus/*.jsonl',)" --config.tokenizer.path=models/Llama-3.1-70B

`:debug` wants the bundled text instead:
  jaxllm prepare --config=configs/data/shakespeare.py:special --workdir=data/shakespeare
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, on_slice, shrink

BATCH, REMAT = "data.global_batch_size", "train.remat"
SLICES = {
    "v5p-256": {BATCH: 256, REMAT: "kv"},
    "v5p-128": {BATCH: 64, REMAT: "projections"},
    "v6e-256": {BATCH: 256, REMAT: "full"},
}


def get_config(variant: str = ""):
    """The recipe; variants: the slices above, debug (seconds on a CPU)."""
    check_variant(variant, (*SLICES, "debug"))
    config = default_config()
    config.model.preset = "llama3.1_70b"
    config.data.sequence_length = 8192
    config.optimizer.update(learning_rate=1.5e-4, warmup_steps=8000, final_fraction=0.1)
    config.train.steps = 1_000_000
    on_slice(config, variant, SLICES)
    if variant == "debug":
        shrink(config, "llama_debug")
    return config
