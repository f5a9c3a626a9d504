"""Source code, a file a document: duplicates gone, secrets and addresses masked, layout untouched.

  jaxllm prepare --config=configs/data/code.py --config.input.paths="('repos/**/*.py',)" \
      --config.input.format=text --workdir=data/code

Rules about sentences, symbols and repeated lines would drop code, so none of them runs; the
tokenizer gets runs of spaces as single tokens.
"""

from jaxllm.core.config import check_variant
from jaxllm.data.prepare.config import default_config


def get_config(variant: str = ""):
    """The recipe; variants: debug (the bundled statements, seconds)."""
    check_variant(variant, ("debug",))
    config = default_config()
    config.stages = ("normalise", "personal_data", "exact", "near")
    config.normalise.mojibake = False  # string literals may hold it on purpose
    config.normalise.form = ""
    config.personal_data.types = ("url_credentials", "email", "ip")
    config.personal_data.public_ips_only = True
    config.near.threshold = 0.8  # files of one framework share their first lines
    config.split.by = "cluster"
    config.split.validation_share = 0.01
    config.tokenizer.vocab_size = 49152
    config.tokenizer.user_symbols = tuple(" " * n for n in (2, 4, 8, 12, 16))
    if variant == "debug":
        config.input.paths = ("sample:fomc",)
        config.split.validation_share = 0.1
        config.tokenizer.vocab_size = 512
    return config
