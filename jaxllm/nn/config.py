"""The groups of a model's configuration, one per mechanism; imports no jax."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionConfig:
    """Multi-head attention with grouped keys and values (Ainslie et al. 2023, GQA)."""

    heads: int = 8
    kv_heads: int = 0  # heads of keys and values; 0: as many as `heads`
    head_dim: int = 0  # 0: width / heads
    bias: bool = False  # on queries, keys and values
    output_bias: bool = False
    window: int = 0  # attend to this many last tokens only (itself included); 0: all
    softcap: float = 0.0  # scores become softcap * tanh(scores / softcap); 0: off
    dropout: float = 0.0  # of the attention probabilities


@dataclass(frozen=True)
class PositionConfig:
    """How the model knows where a token stands."""

    kind: str = "rope"  # rope | learned | none
    max_length: int = 2048  # rows of a learned table; the trained context of RoPE
    theta: float = 10_000.0
    scaling: str = "none"  # none | llama3
    scaling_factor: float = 8.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_max_length: int = 8192


@dataclass(frozen=True)
class NormConfig:
    """Normalisation of the residual stream, before each sublayer and after the last."""

    kind: str = "rmsnorm"  # rmsnorm | layernorm
    eps: float = 1e-5


@dataclass(frozen=True)
class MlpConfig:
    """The feed-forward sublayer; gated as in Shazeer 2020 (SwiGLU) or plain."""

    width: int = 2048
    activation: str = "silu"  # silu | gelu | gelu_tanh | relu
    gated: bool = True
    bias: bool = False


@dataclass(frozen=True)
class InitConfig:
    """Normal initialisation; residual projections can be scaled down with depth (GPT-2)."""

    stddev: float = 0.02
    scale_residual: bool = False  # output projections get stddev / sqrt(2 * layers)
