"""A language that no model covers: its own tokenizer, and no rule that was made for English.

  jaxllm prepare --config=configs/data/low_resource_language.py \
      --config.input.paths="('texts/**/*.txt',)" --workdir=data/my_language

What is kept out is what is surely another language (`language.unwanted`: those of the pages that
yours is mixed with), repetition, and duplicates; every text counts, so nothing is dropped for its
length or its words. BPE of 16,384 pieces with bytes for rare characters; look at
`jaxllm preview --data` and at characters per token before training.
"""

from jaxllm.core.config import check_variant
from jaxllm.data.prepare.config import default_config


def get_config(variant: str = ""):
    """The recipe; variants: debug (the bundled statements, seconds)."""
    check_variant(variant, ("debug",))
    config = default_config()
    config.stages = (
        "normalise", "boilerplate", "language", "gopher_repetition", "personal_data", "exact",
        "near",
    )
    config.boilerplate.notices = False  # its phrases are those of seven large languages
    config.language.unwanted = ("en", "fr", "es", "ru", "ar", "zh")
    config.language.min_confidence = 0.9
    config.split.by = "cluster"
    config.split.validation_share = 0.02
    config.tokenizer.vocab_size = 16384
    config.tokenizer.character_coverage = 0.99995  # of a script with many characters, too
    if variant == "debug":
        config.input.paths = ("sample:fomc",)
        config.language.unwanted = ("fr",)
        config.split.validation_share = 0.1
        config.tokenizer.vocab_size = 512
    return config
