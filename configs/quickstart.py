"""The quickstart's general model: a small Llama on Shakespeare, about a minute on two cores.

`./launch/quickstart.sh` prepares the data; by hand:
  jaxllm prepare --config=configs/data/shakespeare.py --workdir=runs/quickstart/data/shakespeare
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config


def get_config(variant: str = ""):
    """The recipe; variant: debug (seconds)."""
    check_variant(variant, ("debug",))
    config = default_config()
    config.model.preset = "llama_tiny"
    config.data.mixture.shakespeare = {"path": "runs/quickstart/data/shakespeare", "weight": 1.0}
    config.data.sequence_length = 128
    config.data.global_batch_size = 16
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 30
    config.train.steps = 400
    config.train.unroll = 4
    config.train.log_every = 10
    config.train.eval_every = 100
    config.checkpoint.every = 100
    config.eval.prompts = ("ROMEO:\n", "The king")
    if variant == "debug":
        config.model.preset = "llama_debug"
        config.data.sequence_length = 32
        config.data.global_batch_size = 8
        config.train.steps = 20
        config.train.eval_every = 10
        config.checkpoint.every = 10
        config.optimizer.warmup_steps = 5
        config.eval.batches = 2
        config.eval.prompts = ("ROMEO:\n",)
        config.eval.sample_tokens = 16
    return config
