"""Llama: RMSNorm, RoPE, grouped-query attention, SwiGLU, no biases.

Touvron et al. 2023 (arXiv:2302.13971, arXiv:2307.09288); Llama Team 2024 (arXiv:2407.21783).
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.nn.config import AttentionConfig, MlpConfig, NormConfig, PositionConfig

_LLAMA3_ROPE = {"theta": 500_000.0, "max_length": 131_072, "scaling": "llama3"}


def _llama(
    vocab_size: int, width: int, layers: int, heads: int, kv_heads: int, mlp: int,
    positions: PositionConfig, *, eps: float = 1e-5, tied: bool = False, head_dim: int = 0,
) -> ModelConfig:
    return ModelConfig(
        family="llama", vocab_size=vocab_size, width=width, layers=layers, tied=tied,
        attention=AttentionConfig(heads=heads, kv_heads=kv_heads, head_dim=head_dim),
        positions=positions, norm=NormConfig("rmsnorm", eps),
        mlp=MlpConfig(width=mlp, activation="silu", gated=True),
    )


PRESETS = {
    # for a laptop: the vocabulary is the tokenizer's
    "llama_debug": _llama(0, 64, 2, 4, 2, 192, PositionConfig(max_length=512)),
    "llama_tiny": _llama(0, 192, 4, 6, 3, 512, PositionConfig(max_length=1024)),
    # the 20.6M-parameter shape of the CPU benchmark (docs/performance.md)
    "llama_21m": _llama(32_000, 256, 4, 4, 4, 1024, PositionConfig(max_length=2048)),
    "llama2_7b": _llama(32_000, 4096, 32, 32, 32, 11_008, PositionConfig(max_length=4096)),
    "llama2_13b": _llama(32_000, 5120, 40, 40, 40, 13_824, PositionConfig(max_length=4096)),
    "llama2_70b": _llama(32_000, 8192, 80, 64, 8, 28_672, PositionConfig(max_length=4096)),
    "llama3_8b": _llama(
        128_256, 4096, 32, 32, 8, 14_336, PositionConfig(max_length=8192, theta=500_000.0)
    ),
    "llama3.1_8b": _llama(128_256, 4096, 32, 32, 8, 14_336, PositionConfig(**_LLAMA3_ROPE)),
    "llama3.1_70b": _llama(128_256, 8192, 80, 64, 8, 28_672, PositionConfig(**_LLAMA3_ROPE)),
    "llama3.1_405b": _llama(128_256, 16_384, 126, 128, 8, 53_248, PositionConfig(**_LLAMA3_ROPE)),
    "llama3.2_1b": _llama(
        128_256, 2048, 16, 32, 8, 8192,
        PositionConfig(**_LLAMA3_ROPE, scaling_factor=32.0), tied=True,
    ),
    "llama3.2_3b": _llama(
        128_256, 3072, 28, 24, 8, 8192,
        PositionConfig(**_LLAMA3_ROPE, scaling_factor=32.0), tied=True,
    ),
}
