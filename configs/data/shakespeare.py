"""The general sample of the quickstart: Shakespeare's speeches, each a document.

`:special` adds a mask token and T5's sentinels, for the objectives that need them.
"""

from jaxllm.core.config import check_variant
from jaxllm.data.prepare.config import default_config


def get_config(variant: str = ""):
    check_variant(variant, ("debug", "special"))
    config = default_config()
    config.input.paths = ("sample:tinyshakespeare",)
    config.input.document = "paragraph"
    config.split.validation_share = 0.05
    config.tokenizer.vocab_size = 2048
    if variant == "debug":
        config.tokenizer.vocab_size = 512
    if variant == "special":
        config.tokenizer.mask = True
        config.tokenizer.sentinels = 100
    return config
