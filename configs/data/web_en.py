"""English web pages: repaired, filtered as Gopher, C4 and FineWeb do, deduplicated, decontaminated.

  jaxllm prepare --config=configs/data/web_en.py --config.input.paths="('crawl/*.jsonl.gz',)" \
      --workdir=data/web

`:decontaminate` also removes what overlaps with evaluation sets: name them with
--config.decontaminate.sets="('evals/mmlu/', 'evals/gsm8k.jsonl')". Needs the extra `prep`.
"""

from jaxllm.core.config import check_variant
from jaxllm.data.prepare.config import default_config


def get_config(variant: str = ""):
    """The recipe; variants: debug (the bundled statements, seconds), decontaminate."""
    check_variant(variant, ("debug", "decontaminate"))
    config = default_config()
    config.stages = (
        "normalise", "boilerplate", "language", "gopher_quality", "gopher_repetition", "c4",
        "fineweb", "toxicity", "personal_data", "exact", "near",
    )
    config.language.languages = ("en",)
    config.split.by = "cluster"
    config.split.validation_share = 0.001
    config.tokenizer.vocab_size = 65536
    if variant == "decontaminate":
        config.stages += ("decontaminate",)
    if variant == "debug":
        config.input.paths = ("sample:fomc",)
        config.split.validation_share = 0.1
        config.tokenizer.vocab_size = 512
    return config
