"""Your own text, one document a file or row: --config.input.paths="('a/*.txt','b.jsonl')"."""

from jaxllm.core.config import check_variant
from jaxllm.data.prepare.config import default_config


def get_config(variant: str = ""):
    check_variant(variant, ("debug",))
    config = default_config()
    config.tokenizer.vocab_size = 16384
    if variant == "debug":
        config.input.paths = ("sample:fomc",)
        config.tokenizer.vocab_size = 512
    return config
