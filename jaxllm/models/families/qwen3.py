"""Qwen3: Llama with normalised queries and keys, and heads of 128 whatever the width.

Yang et al. 2025 (arXiv:2505.09388), table 1.
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.models.families.llama import CONFIG, LAYER, Biases, architectures, weights
from jaxllm.models.families.qwen2 import WINDOWS
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import Field, Rope
from jaxllm.models.hf.weights import norm
from jaxllm.nn.config import AttentionConfig, MlpConfig, NormConfig, PositionConfig


def _qwen3(
    width: int, layers: int, heads: int, mlp: int, *, kv_heads: int = 8, head_dim: int = 128,
    vocab_size: int = 151_936, tied: bool = False, length: int = 40_960,
) -> ModelConfig:
    return ModelConfig(
        family="qwen3", vocab_size=vocab_size, width=width, layers=layers, tied=tied,
        attention=AttentionConfig(
            heads, kv_heads, head_dim, pattern=("global",), qk_norm="head"
        ),
        positions=PositionConfig(max_length=length, theta=1e6),
        norm=NormConfig("rmsnorm", 1e-6), mlp=MlpConfig(mlp),
    )


PRESETS = {
    "qwen3_debug": _qwen3(
        64, 2, 4, 192, kv_heads=2, head_dim=32, vocab_size=0, tied=True, length=512
    ),
    "qwen3_0.6b": _qwen3(1024, 28, 16, 3072, tied=True),
    "qwen3_1.7b": _qwen3(2048, 28, 16, 6144, tied=True),
    "qwen3_4b": _qwen3(2560, 36, 32, 9728, tied=True),
    "qwen3_8b": _qwen3(4096, 36, 32, 12_288),
    "qwen3_14b": _qwen3(5120, 40, 40, 17_408),
    "qwen3_32b": _qwen3(5120, 64, 64, 25_600),
}
QK_NORMS = (
    norm("attention.query_norm", "self_attn.q_norm"), norm("attention.key_norm", "self_attn.k_norm")
)

FAMILY = Family(
    model_type="qwen3", architectures=architectures("Qwen3"),
    base=_qwen3(0, 0, 0, 0, kv_heads=0),
    config=(
        *CONFIG, Rope(), WINDOWS, Biases(),
        Field("head_dim", "attention.head_dim", 128),
        Field("rms_norm_eps", "norm.eps", 1e-6),
        Field("tie_word_embeddings", "tied", False),
    ),
    weights=weights(*LAYER, *QK_NORMS), prefix="model.",
    twins={"lm_head.weight": "model.embed_tokens.weight"},
)
