"""The quickstart's domain model: the general model continued on Federal Reserve statements.

A tenth of the batches replays the general text, against forgetting it. Run configs/quickstart.py
first; the model's sizes follow from `train.init_from`.
"""

from jaxllm.core.config import check_variant, to_config_dict
from jaxllm.data.config import SourceConfig
from jaxllm.train.config import default_config


def get_config(variant: str = ""):
    """The recipe; variant: debug (seconds, from the quickstart's debug run)."""
    check_variant(variant, ("debug",))
    config = default_config()
    config.train.init_from = "runs/quickstart/base"
    fomc = SourceConfig("runs/quickstart/data/fomc", weight=0.9)
    general = SourceConfig("runs/quickstart/data/shakespeare", weight=0.1)
    config.data.mixture.fomc = to_config_dict(fomc)
    config.data.mixture.shakespeare = to_config_dict(general)
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
