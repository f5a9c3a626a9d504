"""Gemma: Llama with scaled embeddings, GELU gates, and norms whose scale is 1 + what is stored.

Gemma Team 2024 (arXiv:2403.08295), table 1.
"""

from __future__ import annotations

from jaxllm.core.errors import UserError
from jaxllm.models.config import ModelConfig
from jaxllm.models.families.llama import LAYER, Biases, architectures, weights
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import ACTIVATIONS, Field, Fixed, Rope
from jaxllm.nn.config import (
    AttentionConfig,
    EmbeddingConfig,
    MlpConfig,
    NormConfig,
    PositionConfig,
)


def _gemma(
    width: int, layers: int, heads: int, kv_heads: int, mlp: int, *, head_dim: int = 256,
    vocab_size: int = 256_000, length: int = 8192,
) -> ModelConfig:
    return ModelConfig(
        family="gemma", vocab_size=vocab_size, width=width, layers=layers, tied=True,
        attention=AttentionConfig(heads, kv_heads, head_dim),
        positions=PositionConfig(max_length=length),
        norm=NormConfig("rmsnorm", 1e-6, unit_offset=True),
        mlp=MlpConfig(mlp, "gelu_tanh"), embedding=EmbeddingConfig(scaled=True),
    )


PRESETS = {
    "gemma_debug": _gemma(64, 2, 4, 1, 192, head_dim=32, vocab_size=0, length=512),
    "gemma_2b": _gemma(2048, 18, 8, 1, 16_384),
    "gemma_7b": _gemma(3072, 28, 16, 16, 24_576),
}

# what all of Gemma share
CONFIG = (
    Field("vocab_size", "vocab_size"),
    Field("hidden_size", "width"),
    Field("num_hidden_layers", "layers"),
    Field("num_attention_heads", "attention.heads"),
    Field("num_key_value_heads", "attention.kv_heads"),
    Field("head_dim", "attention.head_dim", 256),
    Field("intermediate_size", "mlp.width"),
    Field("initializer_range", "init.stddev", 0.02),
    Field("rms_norm_eps", "norm.eps", 1e-6),
    Field("attention_dropout", "attention.dropout", 0.0),
    Biases(),
    Field("tie_word_embeddings", "tied", True),
)


class _Activation:
    """hidden_act, where "gelu" always meant GELU's tanh form, and its successor of a while."""

    keys = ("hidden_act", "hidden_activation")
    names = Field(
        "hidden_act", "mlp.activation", "gelu_pytorch_tanh",
        {"gelu_pytorch_tanh": "gelu_tanh", **ACTIVATIONS, "gelu": "gelu_tanh"},
    )

    def read(self, theirs):
        """See Rule."""
        ours, successor = self.names.read(theirs), theirs.get("hidden_activation")
        if successor is not None and self.names.read({"hidden_act": successor}) != ours:
            raise UserError(
                f"config.json: hidden_act={theirs.get('hidden_act')!r} and "
                f"hidden_activation={successor!r} contradict each other. Remove the wrong one."
            )
        return ours

    def write(self, ours):
        """See Rule."""
        theirs = self.names.write(ours)
        return {**theirs, "hidden_activation": theirs["hidden_act"]}


FAMILY = Family(
    model_type="gemma", architectures=architectures("Gemma"), base=_gemma(0, 0, 0, 0, 0),
    config=(
        *CONFIG, _Activation(), Rope(),
        Field("max_position_embeddings", "positions.max_length", 8192),
        Fixed("use_bidirectional_attention", None, also=(False,)),
    ),
    weights=weights(*LAYER), prefix="model.",
    ignored=(r".*rotary_emb\.inv_freq",),
    twins={"lm_head.weight": "model.embed_tokens.weight"},
)
