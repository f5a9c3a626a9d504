r"""T5-11B by span corruption from scratch, 512 tokens in.

Hyperparameters follow T5 (arXiv:1910.10683): Adafactor, inverse square root from 1e-2 with 10,000
steps of warm-up, 2**16 tokens a step times 16 here.

Look before you rent, on any machine (the slice is the variant):
  jaxllm plan --config=configs/t5_11b.py:v5e-256
  jaxllm check --config=configs/t5_11b.py:v5e-256
Prepare the data with T5's tokenizer:
  jaxllm prepare --config=configs/data/text.py --workdir=data/text \
    --config.input.paths="('corpus/*.jsonl',)" --config.tokenizer.path=models/t5-11b

`:debug` wants the bundled text instead:
  jaxllm prepare --config=configs/data/shakespeare.py:special --workdir=data/shakespeare
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, on_slice, shrink

BATCH, REMAT = "data.global_batch_size", "train.remat"
SLICES = {
    "v5e-256": {BATCH: 2048, REMAT: "full"},
}


def get_config(variant: str = ""):
    """The recipe; variants: the slices above, debug (seconds on a CPU)."""
    check_variant(variant, (*SLICES, "debug"))
    config = default_config()
    config.model.preset = "t5_11b"
    config.data.sequence_length = 512
    config.data.objective = "span_corruption"
    config.optimizer.update(name="adafactor", schedule="rsqrt", weight_decay=0.0)
    config.optimizer.update(learning_rate=1e-2, warmup_steps=10000)
    config.train.steps = 524_288
    on_slice(config, variant, SLICES)
    if variant == "debug":
        shrink(config, "t5_debug")
    return config
