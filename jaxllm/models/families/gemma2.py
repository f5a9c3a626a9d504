"""Gemma 2: Gemma with local and global layers in turn, norms on both sides and soft-caps.

Gemma Team 2024 (arXiv:2408.00118), table 1.
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.models.families.gemma import CONFIG
from jaxllm.models.families.llama import LAYER, architectures, weights
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import ACTIVATIONS, Field, Fixed, LayerTypes, Optional, Rope
from jaxllm.models.hf.weights import norm
from jaxllm.nn.config import (
    AttentionConfig,
    EmbeddingConfig,
    MlpConfig,
    NormConfig,
    PositionConfig,
)


def _gemma2(
    width: int, layers: int, heads: int, kv_heads: int, mlp: int, *, head_dim: int = 256,
    scale: float = 0.0, vocab_size: int = 256_000, length: int = 8192, window: int = 4096,
) -> ModelConfig:
    return ModelConfig(
        family="gemma2", vocab_size=vocab_size, width=width, layers=layers, tied=True,
        attention=AttentionConfig(
            heads, kv_heads, head_dim, window=window, pattern=("local", "global"), softcap=50.0,
            scale=scale,
        ),
        positions=PositionConfig(max_length=length),
        norm=NormConfig("rmsnorm", 1e-6, placement="sandwich", unit_offset=True),
        mlp=MlpConfig(mlp, "gelu_tanh"), embedding=EmbeddingConfig(scaled=True),
        logit_softcap=30.0,
    )


PRESETS = {
    "gemma2_debug": _gemma2(
        64, 2, 4, 2, 192, head_dim=32, vocab_size=0, length=512, window=24
    ),
    "gemma2_2b": _gemma2(2304, 26, 8, 4, 9216),
    "gemma2_9b": _gemma2(3584, 42, 16, 8, 14_336),
    # its queries are scaled by width / heads
    "gemma2_27b": _gemma2(4608, 46, 32, 16, 36_864, head_dim=128, scale=144**-0.5),
}


class _QueryScale:
    """query_pre_attn_scalar, a whole number: scores are divided by its root."""

    keys = ("query_pre_attn_scalar",)

    def read(self, theirs):
        """See Rule."""
        scalar = theirs.get("query_pre_attn_scalar", 256)
        usual = scalar == theirs.get("head_dim", 256)
        return {"attention.scale": 0.0 if usual else scalar**-0.5}

    def write(self, ours):
        """See Rule."""
        scale = ours.attention.scale
        return {"query_pre_attn_scalar": round(scale**-2) if scale else ours.attention.head_dim}


# what Gemma 2 and 3 share
CONFIG2 = (
    *CONFIG, _QueryScale(),
    Field("hidden_activation", "mlp.activation", "gelu_pytorch_tanh", ACTIVATIONS),
)
SANDWICH = (
    *(part for part in LAYER if not part[0].theirs.startswith("post_attention_layernorm")),
    norm("attention_output_norm", "post_attention_layernorm"),
    norm("mlp_norm", "pre_feedforward_layernorm"),
    norm("mlp_output_norm", "post_feedforward_layernorm"),
)

FAMILY = Family(
    model_type="gemma2", architectures=architectures("Gemma2"), base=_gemma2(0, 0, 0, 0, 0),
    config=(
        *CONFIG2, Rope(), LayerTypes(("local", "global")),
        Field("max_position_embeddings", "positions.max_length", 8192),
        Fixed("use_bidirectional_attention", None, also=(False,)),
        Optional("attn_logit_softcapping", "attention.softcap", default=50.0),
        Optional("final_logit_softcapping", "logit_softcap", default=30.0),
    ),
    weights=weights(*SANDWICH), prefix="model.",
    twins={"lm_head.weight": "model.embed_tokens.weight"},
    # in files of the hub; transformers reads none of them
    harmless=frozenset({"cache_implementation", "hidden_act", "sliding_window_size"}),
)
