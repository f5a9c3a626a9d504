r"""Instruction tuning of any decoder: conversations or prompts with completions, packed.

The defaults are TRL's for full fine-tuning; `:lora` and `:qlora` train adapters at their higher
rate. Name your base and your rows:
  jaxllm preview --config=configs/tune/instruct.py:lora \
    --config.train.init_from=models/Llama-3.2-1B --config.data.mixture.rows.path=rows.jsonl
  jaxllm train --config=configs/tune/instruct.py:lora --workdir=runs/assistant \
    --config.train.init_from=models/Llama-3.2-1B --config.data.mixture.rows.path=rows.jsonl
Conversations are written by ChatML's template; a base that has one of its own keeps it with
--config.data.chat_template=''.

`:debug` goes on from a debug run:
  jaxllm train --config=configs/llama.py:debug --workdir=runs/debug/llama
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, finetune, shrink_tuning


def get_config(variant: str = ""):
    """The recipe; variants: lora, qlora, debug (LoRA in seconds on a CPU)."""
    check_variant(variant, ("lora", "qlora", "debug"))
    config = default_config()
    finetune(
        config, "models/base", {"rows": "data/instructions.jsonl"}, objective="sft", length=1024,
        batch=32, rate=2e-5, steps=600,
    )
    config.data.chat_template = "chatml"
    config.data.assistant_only_loss = True
    if variant:
        config.optimizer.learning_rate = 2e-4
        config.tune.method = "lora"
        config.tune.lora.update(r=16, lora_alpha=32.0, target_modules=("all-linear",))
    if variant == "qlora":
        config.tune.quantization = "nf4"
    if variant == "debug":
        shrink_tuning(config, "llama", {"rows": "instructions.jsonl"})
        config.data.sequence_length = 256
    return config
