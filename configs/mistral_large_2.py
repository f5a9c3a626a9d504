r"""Mistral Large 2 123B from scratch, sequence 8192.

Mistral gives no hyperparameters; these are Llama 3 70B's.

Look before you rent, on any machine (the slice is the variant):
  jaxllm plan --config=configs/mistral_large_2.py:v5p-256
  jaxllm check --config=configs/mistral_large_2.py:v5p-256
Prepare the data with Mistral's tokenizer:
  jaxllm prepare --config=configs/data/text.py --workdir=data/text \
    --config.input.paths="('corpus/*.jsonl',)" \
    --config.tokenizer.path=models/Mistral-Large-Instruct-2407

`:debug` wants the bundled text instead:
  jaxllm prepare --config=configs/data/shakespeare.py:special --workdir=data/shakespeare
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, on_slice, shrink

BATCH, REMAT = "data.global_batch_size", "train.remat"
SLICES = {
    "v5p-256": {BATCH: 128, REMAT: "attention"},
}


def get_config(variant: str = ""):
    """The recipe; variants: the slices above, debug (seconds on a CPU)."""
    check_variant(variant, (*SLICES, "debug"))
    config = default_config()
    config.model.preset = "mistral_large_2"
    config.data.sequence_length = 8192
    config.optimizer.update(learning_rate=1.5e-4, warmup_steps=8000, final_fraction=0.1)
    config.train.steps = 500_000
    on_slice(config, variant, SLICES)
    if variant == "debug":
        shrink(config, "mistral_debug")
    return config
