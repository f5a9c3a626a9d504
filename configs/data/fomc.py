"""The domain sample of the quickstart: the Federal Reserve's statements, each a document.

Continued training needs the tokenizer of the model that it starts from, so this one is reused, not
trained: --config.tokenizer.path=FOLDER names it.
"""

from jaxllm.core.config import check_variant
from jaxllm.data.prepare.config import default_config


def get_config(variant: str = ""):
    check_variant(variant, ("debug",))
    config = default_config()
    config.input.paths = ("sample:fomc",)
    config.split.validation_share = 0.1
    config.tokenizer.path = "runs/quickstart/data/shakespeare/tokenizer"
    return config
