r"""Your own text: a small Llama on the folder data/text, minutes on two cores.

Two commands; a corpus of a few files also needs --config.input.document=paragraph:
  jaxllm prepare --config=configs/data/text.py --workdir=data/text \
    --config.input.paths="('texts/*.txt',)" --config.tokenizer.vocab_size=4096
  jaxllm train --config=configs/text.py --workdir=runs/text

`:debug` wants the bundled text instead:
  jaxllm prepare --config=configs/data/shakespeare.py:special --workdir=data/shakespeare
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, shrink


def get_config(variant: str = ""):
    """The recipe; variant: debug (seconds, on the bundled text)."""
    check_variant(variant, ("debug",))
    config = default_config()
    config.model.preset = "llama_tiny"
    config.data.mixture = {"text": {"path": "data/text", "weight": 1.0}}
    config.data.sequence_length = 128
    config.data.global_batch_size = 16
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 30
    config.train.steps = 400
    config.train.unroll = 4
    config.train.eval_every = 100
    config.checkpoint.every = 100
    if variant == "debug":
        shrink(config, "llama_debug")
    return config
