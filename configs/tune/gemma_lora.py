r"""LoRA on Gemma 3 4B (or another Gemma): one TPU VM host, or one GPU.

  jaxllm check --config=configs/tune/gemma_lora.py:v6e-4
  jaxllm train --config=configs/tune/gemma_lora.py:v6e-4 --workdir=runs/assistant \
    --config.train.init_from=models/gemma-3-4b-pt

`:debug` goes on from a debug run:
  jaxllm train --config=configs/gemma3.py:debug --workdir=runs/debug/gemma3
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, finetune, shrink_tuning


def get_config(variant: str = ""):
    """The recipe; variants: v5e-4, v6e-4, h100 (one of 80 GB), debug (seconds on a CPU)."""
    check_variant(variant, ("v5e-4", "v6e-4", "h100", "debug"))
    config = default_config()
    finetune(
        config, "models/gemma-3-4b-pt", {"rows": "data/instructions.jsonl"}, objective="sft",
        length=2048, batch=32, rate=2e-4, steps=1000,
    )
    config.data.chat_template = "gemma"
    config.data.assistant_only_loss = True
    config.tune.method = "lora"
    config.tune.lora.update(r=16, lora_alpha=32.0, target_modules=("all-linear",))
    config.train.remat = "attention"
    config.mesh.fsdp = -1
    if variant == "h100":
        config.train.grad_accumulation = 4
    if variant == "debug":
        shrink_tuning(config, "gemma3", {"rows": "instructions.jsonl"})
        config.data.sequence_length = 256
    return config
