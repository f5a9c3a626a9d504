r"""Summaries, translations or answers by an encoder-decoder: T5 or BART on pairs.

A row has `source` and `target`; other columns are named or put together in `columns`, such as
columns.source="summarize: {{article}}" for T5's tasks, "translate English to German: {{en}}", or
"question: {{question}} context: {{context}}". T5 was tuned by Adafactor at a constant 1e-3.
  jaxllm train --config=configs/tune/summarize.py --workdir=runs/summaries \
    --config.train.init_from=models/t5-small --config.data.mixture.pairs.path=pairs.jsonl
With `:bart` the rate and schedule are BART's.

`:debug` goes on from a debug run:
  jaxllm train --config=configs/t5.py:debug --workdir=runs/debug/t5
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, finetune, shrink_tuning


def get_config(variant: str = ""):
    """The recipe; variants: bart, debug (seconds on a CPU)."""
    check_variant(variant, ("bart", "debug"))
    config = default_config()
    finetune(
        config, "models/bart-base" if variant == "bart" else "models/t5-small",
        {"pairs": "data/pairs.jsonl"}, objective="seq2seq", length=512, batch=64,
        rate=3e-5 if variant == "bart" else 1e-3, steps=3000,
    )
    config.data.target_length = 128
    config.eval.evaluators = ("generation",)
    if variant != "bart":
        config.optimizer.update(name="adafactor", schedule="constant", warmup_steps=0)
        config.optimizer.update(final_fraction=0.1, b2=0.95)  # which these do not read
    if variant == "debug":
        shrink_tuning(config, "t5", {"pairs": "summaries.jsonl"})
        config.data.target_length = 32
        config.optimizer.warmup_steps = 0
    return config
