r"""LoRA on Llama 3.1 8B: one TPU VM host, or one GPU; QLoRA in 24 GB.

The base stays in bfloat16 (16 GB over the chips); adapters of rank 16 on all linear layers train,
in float32.
  jaxllm check --config=configs/tune/llama3_8b_lora.py:v6e-8
  jaxllm train --config=configs/tune/llama3_8b_lora.py:v6e-8 --workdir=gs://bucket/runs/assistant
`:qlora` keeps the base in 4 bits (nf4, double quantisation: arXiv:2305.14314).

`:debug` goes on from a debug run:
  jaxllm train --config=configs/llama.py:debug --workdir=runs/debug/llama
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, finetune, shrink_tuning


def get_config(variant: str = ""):
    """The recipe; variants: v5e-8, v6e-8, h100 (one of 80 GB), qlora (one of 24 GB), debug."""
    check_variant(variant, ("v5e-8", "v6e-8", "h100", "qlora", "debug"))
    config = default_config()
    finetune(
        config, "models/Llama-3.1-8B", {"rows": "data/instructions.jsonl"}, objective="sft",
        length=2048, batch=32, rate=2e-4, steps=1000,
    )
    config.data.chat_template = "llama3"
    config.data.assistant_only_loss = True
    config.tune.method = "lora"
    config.tune.lora.update(r=16, lora_alpha=32.0, target_modules=("all-linear",))
    config.train.update(remat="attention", unroll=1)
    config.mesh.fsdp = -1
    if variant in ("h100", "qlora"):
        config.train.grad_accumulation = 8
    if variant == "qlora":
        config.tune.quantization = "nf4"
        config.train.update(remat="full", grad_accumulation=32)
    if variant == "debug":
        shrink_tuning(config, "llama", {"rows": "instructions.jsonl"})
        config.data.sequence_length = 256
    return config
