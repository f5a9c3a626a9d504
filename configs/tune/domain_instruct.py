r"""The second half of domain adaptation: instructions for a base that went on in the domain.

First the domain's text (continued pre-training with a tenth of general text replayed), then this:
  jaxllm train --config=configs/tune/domain.py --workdir=runs/domain \
    --config.train.init_from=models/base
  jaxllm train --config=configs/tune/domain_instruct.py --workdir=runs/domain_assistant
The guard measures what both have forgotten of the general text (Gururangan et al. 2020,
arXiv:2004.10964, for adapting first).

`:debug` goes on from configs/tune/domain.py:debug in runs/debug/domain.
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, finetune, shrink_tuning


def get_config(variant: str = ""):
    """The recipe; variant: debug (seconds on a CPU)."""
    check_variant(variant, ("debug",))
    config = default_config()
    finetune(
        config, "runs/domain", {"rows": "data/domain_instructions.jsonl"}, objective="sft",
        length=2048, batch=32, rate=2e-4, steps=600,
    )
    config.data.chat_template = "chatml"
    config.data.assistant_only_loss = True
    config.tune.method = "lora"
    config.tune.lora.update(r=16, lora_alpha=32.0, target_modules=("all-linear",))
    config.tune.guard.data = ("data/general",)
    if variant == "debug":
        shrink_tuning(config, "domain", {"rows": "instructions.jsonl"})
        config.data.sequence_length = 256
        config.tune.guard.data = ("data/shakespeare",)
    return config
