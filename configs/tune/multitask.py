r"""Several tasks in one decoder: a mixture by temperature-scaled sampling (T5: arXiv:1910.10683).

With data.mixture_temperature=2 a task of a hundred times the rows is seen ten times as often; the
weights multiply that. A tenth of the examples replays general text.
  jaxllm train --config=configs/tune/multitask.py --workdir=runs/multitask \
    --config.train.init_from=models/base --config.tune.replay.path=data/general

`:debug` goes on from a debug run, of which it also replays the text:
  jaxllm prepare --config=configs/data/shakespeare.py:special --workdir=data/shakespeare
  jaxllm train --config=configs/llama.py:debug --workdir=runs/debug/llama
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, finetune, shrink_tuning


def get_config(variant: str = ""):
    """The recipe; variant: debug (seconds on a CPU)."""
    check_variant(variant, ("debug",))
    config = default_config()
    finetune(
        config, "models/base", {
            "instructions": "data/instructions.jsonl", "summaries": "data/summaries.jsonl",
        },
        objective="sft", length=1024, batch=64, rate=2e-5, steps=2000,
    )
    config.data.chat_template = "chatml"
    config.data.mixture_temperature = 2.0
    columns = {"prompt": "Summarise:\n\n{{source}}\n\n", "completion": "{{target}}"}
    config.data.mixture.summaries.columns = columns
    config.tune.replay.update(path="data/general", share=0.1)
    if variant == "debug":
        shrink_tuning(
            config, "llama", {"instructions": "instructions.jsonl", "summaries": "summaries.jsonl"}
        )
        config.data.mixture.summaries.columns = columns
        config.data.sequence_length = 256
        config.tune.replay.path = "data/shakespeare"
    return config
