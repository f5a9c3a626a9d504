"""Phi-3: Llama with fused projections, a sliding window and LongRoPE.

Abdin et al. 2024 (arXiv:2404.14219); Ding et al. 2024 (arXiv:2402.13753) for LongRoPE.
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.models.families.llama import CONFIG, architectures, weights
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import EmbeddingDropout, Field, Optional, Rope
from jaxllm.models.hf.weights import linear, norm
from jaxllm.nn.config import AttentionConfig, MlpConfig, NormConfig, PositionConfig


def _phi3(
    vocab_size: int, width: int, layers: int, heads: int, mlp: int, *, window: int,
    length: int = 4096,
) -> ModelConfig:
    return ModelConfig(
        family="phi3", vocab_size=vocab_size, width=width, layers=layers,
        attention=AttentionConfig(heads, window=window),
        positions=PositionConfig(max_length=length, original_max_length=length),
        norm=NormConfig("rmsnorm", 1e-5), mlp=MlpConfig(mlp),
    )


PRESETS = {
    "phi3_debug": _phi3(0, 64, 2, 4, 192, window=24, length=512),
    "phi3_mini_4k": _phi3(32_064, 3072, 32, 32, 8192, window=2047),
}

FAMILY = Family(
    model_type="phi3", architectures=architectures("Phi3"), base=_phi3(0, 0, 0, 0, 0, window=0),
    config=(
        *CONFIG, Rope(fraction=1.0, original=4096, kinds=("default", "longrope")),
        Optional("sliding_window", "attention.window"),
        Field("rms_norm_eps", "norm.eps", 1e-5),
        EmbeddingDropout(0.0),
        Field("resid_pdrop", "dropout", 0.0),
        Field("tie_word_embeddings", "tied", False),
    ),
    weights=weights(
        norm("attention_norm", "input_layernorm"),
        linear(
            ("attention.query", "attention.key", "attention.value"), "self_attn.qkv_proj"
        ),
        linear("attention.output", "self_attn.o_proj"),
        norm("mlp_norm", "post_attention_layernorm"),
        linear(("mlp.gate", "mlp.up"), "mlp.gate_up_proj"),
        linear("mlp.down", "mlp.down_proj"),
    ),
    prefix="model.",
    twins={"lm_head.weight": "model.embed_tokens.weight"},
    # of Phi-3's and Phi-4-mini's files; transformers never reads them
    harmless=frozenset({
        "attention_bias", "mlp_bias", "lm_head_bias", "full_attn_mod", "interpolate_factor",
    }),
)
