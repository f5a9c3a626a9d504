"""The quickstart's domain model: the general model continued on Federal Reserve statements.

A tenth of the examples replays the general text, against forgetting it; variant no_replay shows
what that is good for. Run configs/quickstart.py first; the sizes follow from `train.init_from`.

`:debug` goes on from a debug run:
  jaxllm train --config=configs/quickstart.py:debug --workdir=runs/quickstart/base_debug
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config

GENERAL = "runs/quickstart/data/shakespeare"


def get_config(variant: str = ""):
    """The recipe; variants: no_replay, debug (seconds, from the quickstart's debug run)."""
    check_variant(variant, ("no_replay", "debug"))
    config = default_config()
    config.train.init_from = "runs/quickstart/base"
    config.data.mixture.fomc = {"path": "runs/quickstart/data/fomc"}
    if variant != "no_replay":
        config.tune.replay.update(path=GENERAL, share=0.1)
    config.tune.guard.update(data=(GENERAL,), tolerance=2.0)
    config.data.sequence_length = 128
    config.data.global_batch_size = 16
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 10
    config.train.steps = 100
    config.train.unroll = 4
    config.train.log_every = 10
    config.train.eval_every = 50
    config.checkpoint.every = 50
    config.eval.prompts = ("The Committee", "ROMEO:\n")
    if variant == "debug":
        config.train.init_from = "runs/quickstart/base_debug"
        config.data.sequence_length = 32
        config.data.global_batch_size = 8
        config.train.steps = 10
        config.train.eval_every = 5
        config.checkpoint.every = 5
        config.optimizer.warmup_steps = 2
        config.eval.batches = 2
        config.eval.prompts = ("The Committee",)
        config.eval.sample_tokens = 16
    return config
