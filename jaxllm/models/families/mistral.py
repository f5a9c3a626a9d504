"""Mistral: Llama with attention to a sliding window.

Jiang et al. 2023 (arXiv:2310.06825); Mistral AI 2024 for Mistral Large 2, whose window is open.
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.models.families.llama import CONFIG, LAYER, architectures, weights
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import Field, Optional, Rope
from jaxllm.nn.config import AttentionConfig, MlpConfig, NormConfig, PositionConfig


def _mistral(
    vocab_size: int, width: int, layers: int, heads: int, kv_heads: int, mlp: int,
    positions: PositionConfig, *, window: int = 0, head_dim: int = 0,
) -> ModelConfig:
    return ModelConfig(
        family="mistral", vocab_size=vocab_size, width=width, layers=layers,
        attention=AttentionConfig(heads, kv_heads, head_dim, window=window),
        positions=positions, norm=NormConfig("rmsnorm", 1e-5), mlp=MlpConfig(mlp),
    )


_LONG = PositionConfig(max_length=32_768, theta=1e6)
PRESETS = {
    "mistral_debug": _mistral(0, 64, 2, 4, 2, 192, PositionConfig(max_length=512), window=24),
    "mistral_7b_v0.1": _mistral(
        32_000, 4096, 32, 32, 8, 14_336, PositionConfig(max_length=32_768), window=4096
    ),
    "mistral_7b_v0.3": _mistral(32_768, 4096, 32, 32, 8, 14_336, _LONG),
    "mistral_large_2": _mistral(
        32_768, 12_288, 88, 96, 8, 28_672, PositionConfig(max_length=131_072, theta=1e6)
    ),
}

FAMILY = Family(
    model_type="mistral", architectures=architectures("Mistral"),
    base=_mistral(0, 0, 0, 0, 0, 0, PositionConfig()),
    config=(
        *CONFIG, Rope(),
        Optional("head_dim", "attention.head_dim"),
        Optional("sliding_window", "attention.window", default=4096),
        Field("rms_norm_eps", "norm.eps", 1e-6),
        Field("tie_word_embeddings", "tied", False),
    ),
    weights=weights(*LAYER), prefix="model.",
    twins={"lm_head.weight": "model.embed_tokens.weight"},
)
