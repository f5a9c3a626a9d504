r"""T5 v1.1 base from scratch by span corruption.

As published (arXiv:1910.10683): rows of 512 with targets of 114, batch 128, Adafactor at
1/sqrt(step) after 10,000 steps of warm-up, no dropout in pre-training (v1.1).

Prepare the data first, with T5's sentinels:
  jaxllm prepare --config=configs/data/text.py --workdir=data/text \
    --config.input.paths="('corpus/*.jsonl',)" \
    --config.tokenizer.sentinels=100

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
        config, "t5v1.1_base", length=512, batch=128, rate=1e-2, warmup=10_000,
        steps=524_288,
    )
    config.data.objective = "span_corruption"
    config.optimizer.name = "adafactor"
    config.optimizer.schedule = "rsqrt"
    config.optimizer.weight_decay = 0.0
    config.train.z_loss = 1e-4
    config.train.eval_every = 10_000
    config.checkpoint.every = 5000
    if variant == "debug":
        shrink(config, "t5_debug")
    return config
