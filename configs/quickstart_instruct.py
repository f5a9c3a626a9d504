"""The quickstart's assistant: LoRA on conversations about the statements and the plays.

The domain model stays as it is; only adapters of rank 16 train. Run configs/quickstart_domain.py
first. `jaxllm preview --config=configs/quickstart_instruct.py` shows what is trained on.

`:debug` goes on from a debug run:
  jaxllm train --config=configs/quickstart_domain.py:debug --workdir=runs/quickstart/domain_debug
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config


def get_config(variant: str = ""):
    """The recipe; variant: debug (seconds, from the quickstart's debug run)."""
    check_variant(variant, ("debug",))
    config = default_config()
    config.train.init_from = "runs/quickstart/domain"
    config.data.mixture.rows = {"path": "sample:rows/instructions.jsonl"}
    config.data.objective = "sft"
    config.data.chat_template = "alpaca"
    config.data.assistant_only_loss = True
    config.data.truncate = True
    config.data.sequence_length = 256
    config.data.global_batch_size = 16
    config.tune.method = "lora"
    config.tune.lora.update(r=16, lora_alpha=32.0, target_modules=("all-linear",))
    texts = ("runs/quickstart/data/shakespeare", "runs/quickstart/data/fomc")
    config.tune.guard.update(data=texts, tolerance=2.0)
    config.optimizer.update(learning_rate=3e-3, weight_decay=0.0, warmup_steps=5)
    config.train.steps = 60
    config.train.unroll = 4
    config.train.log_every = 10
    config.train.eval_every = 30
    config.checkpoint.every = 30
    if variant == "debug":
        config.train.init_from = "runs/quickstart/domain_debug"
        config.data.global_batch_size = 8
        config.train.steps = 4
        config.train.log_every = 2
        config.train.eval_every = 4
        config.checkpoint.every = 4
        config.optimizer.warmup_steps = 1
        config.eval.batches = 1
    return config
