"""tinyshakespeare by characters, exactly as nanoGPT prepares it: 65 ids, the last 10 % held out."""

from jaxllm.core.config import check_variant
from jaxllm.data.prepare.config import default_config


def get_config(variant: str = ""):
    check_variant(variant, ("debug",))
    config = default_config()
    config.input.paths = ("sample:tinyshakespeare",)
    config.split.by = "position"
    config.split.validation_share = 0.1
    config.tokenizer.kind = "char"
    config.output.append_eos = False
    return config
