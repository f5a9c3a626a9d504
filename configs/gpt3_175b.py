r"""GPT-3 175B from scratch, sequence 2048.

Hyperparameters follow GPT-3 (arXiv:2005.14165, table 2.1): 3.2M tokens a step, peak 6e-5, and its
warm-up of 375M tokens.

Look before you rent, on any machine (the slice is the variant):
  jaxllm plan --config=configs/gpt3_175b.py:v5p-512
  jaxllm check --config=configs/gpt3_175b.py:v5p-512
Prepare the data with GPT-2's tokenizer:
  jaxllm prepare --config=configs/data/text.py --workdir=data/text \
    --config.input.paths="('corpus/*.jsonl',)" --config.tokenizer.path=models/gpt2

`:debug` wants the bundled text instead:
  jaxllm prepare --config=configs/data/shakespeare.py:special --workdir=data/shakespeare
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, on_slice, shrink

BATCH, REMAT = "data.global_batch_size", "train.remat"
SLICES = {
    "v5p-512": {BATCH: 1536, REMAT: "full"},
}


def get_config(variant: str = ""):
    """The recipe; variants: the slices above, debug (seconds on a CPU)."""
    check_variant(variant, (*SLICES, "debug"))
    config = default_config()
    config.model.preset = "gpt3_175b"
    config.data.sequence_length = 2048
    config.optimizer.update(learning_rate=6e-5, warmup_steps=120, final_fraction=0.1)
    config.train.steps = 95_000
    on_slice(config, variant, SLICES)
    if variant == "debug":
        shrink(config, "gpt2_debug")
    return config
