r"""Llama 3.1 405B from scratch, sequence 8192, on one slice or on four.

Hyperparameters follow Llama 3 (arXiv:2407.21783, table 3): peak 8e-5, 8,000 steps of warm-up,
cosine.

Look before you rent, on any machine (the slice is the variant):
  jaxllm plan --config=configs/llama3_405b.py:v5p-1024
  jaxllm check --config=configs/llama3_405b.py:v5p-1024
Prepare the data with Llama 3's tokenizer:
  jaxllm prepare --config=configs/data/text.py --workdir=data/text \
    --config.input.paths="('corpus/*.jsonl',)" --config.tokenizer.path=models/Llama-3.1-405B

`:debug` wants the bundled text instead:
  jaxllm prepare --config=configs/data/shakespeare.py:special --workdir=data/shakespeare
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, on_slice, shrink

BATCH, REMAT = "data.global_batch_size", "train.remat"
SLICES = {
    "v5p-1024": {BATCH: 512, REMAT: "full"},
    "4xv5p-1024": {BATCH: 2048, REMAT: "full", "mesh.dcn": 4},
    "tpu7x-512": {BATCH: 512, REMAT: "full"},
}


def get_config(variant: str = ""):
    """The recipe; variants: the slices above, debug (seconds on a CPU)."""
    check_variant(variant, (*SLICES, "debug"))
    config = default_config()
    config.model.preset = "llama3.1_405b"
    config.data.sequence_length = 8192
    config.optimizer.update(learning_rate=8e-5, warmup_steps=8000, final_fraction=0.1)
    config.train.steps = 1_000_000
    on_slice(config, variant, SLICES)
    if variant == "debug":
        shrink(config, "llama_debug")
    return config
