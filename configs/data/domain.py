"""Your own field's documents (filings, papers, guidelines), for continued pre-training.

  jaxllm prepare --config=configs/data/domain.py --config.input.paths="('reports/*.html',)" \
      --config.tokenizer.path=BASE_MODEL --workdir=data/domain

Nothing is judged by the web's rules: reports are full of tables, lists and short lines. Text is
repaired, personal data masked, and what is there twice is kept once. Continued training needs the
tokenizer of the model that it starts from: name its folder, or one is trained.
"""

from jaxllm.core.config import check_variant
from jaxllm.data.prepare.config import default_config


def get_config(variant: str = ""):
    """The recipe; variants: debug (the bundled statements, seconds)."""
    check_variant(variant, ("debug",))
    config = default_config()
    config.stages = ("normalise", "boilerplate", "personal_data", "exact", "near")
    config.exact.parts = "paragraph"  # the same disclaimer under every report
    config.split.by = "cluster"
    config.split.validation_share = 0.02
    if variant == "debug":
        config.input.paths = ("sample:fomc",)
        config.split.validation_share = 0.1
        config.tokenizer.vocab_size = 512
    return config
