r"""Continued pre-training on a domain's text, with replay and a guard against forgetting.

Of ten examples one is general text (Ibrahim et al. 2024, arXiv:2403.08763, find that a few percent
suffice). The rate is a tenth of the base's peak, warmed up again. Prepare both with the base's
tokenizer:
  jaxllm prepare --config=configs/data/domain.py --workdir=data/domain \
    --config.tokenizer.path=models/base
  jaxllm train --config=configs/tune/domain.py --workdir=runs/domain \
    --config.train.init_from=models/base

`:debug` goes on from a debug run:
  jaxllm prepare --config=configs/data/shakespeare.py:special --workdir=data/shakespeare
  jaxllm train --config=configs/llama.py:debug --workdir=runs/debug/llama
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, shrink_tuning


def get_config(variant: str = ""):
    """The recipe; variant: debug (seconds on a CPU)."""
    check_variant(variant, ("debug",))
    config = default_config()
    config.train.init_from = "models/base"
    config.data.mixture.domain = {"path": "data/domain"}
    config.data.update(sequence_length=2048, global_batch_size=64)
    config.optimizer.update(learning_rate=3e-5, warmup_steps=200)
    config.train.update(steps=10_000, remat="attention", eval_every=500)
    config.checkpoint.every = 500
    config.tune.replay.update(path="data/general", share=0.1)
    config.tune.guard.update(data=("data/general",), tolerance=0.05, action="restore")
    if variant == "debug":
        shrink_tuning(config, "llama", {})
        config.data.mixture.domain = {"path": "sample:rows/decisions.jsonl"}
        config.data.objective = "sft"
        config.tune.replay.path = "data/shakespeare"
        config.tune.guard.data = ("data/shakespeare",)
    return config
