"""Analytic FLOPs of a model, the numerator of MFU.

A product of [m, k] and [k, n] costs 2·m·k·n; only matrix products count, as in Chowdhery et al.
2022 (PaLM, appendix B). Causal attention is counted once: a token attends to half the sequence on
average, not to all of it. Recomputation (remat) is not counted.
"""

from __future__ import annotations

import math

import jax

from jaxllm.models.config import ModelConfig
from jaxllm.models.parameters import is_spec
from jaxllm.nn.module import Params


def matmul_params(specs: Params) -> int:
    """Parameters that a token is multiplied with: the kernels, and a tied output projection."""
    leaves = jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec)
    total = sum(math.prod(spec.shape) for path, spec in leaves if path[-1].key == "kernel")
    tied = "head" not in specs
    return total + (math.prod(specs["embedding"]["embedding"].shape) if tied else 0)


def mean_context(length: int, window: int = 0) -> float:
    """Keys that a query of a causal sequence sees on average: half of `length` without a window.

    Counted as an area, as is usual: at most half a key less than the exact (length + 1) / 2.
    """
    reach = min(window, length) if window else length
    return reach - reach * reach / (2 * length)


def forward_flops_per_token(model: ModelConfig, specs: Params, length: int) -> float:
    """FLOPs of the forward pass for one token of a sequence of `length` tokens."""
    attention = model.attention
    # scores and the weighted sum: 2 products of 2·H FLOPs per head and key
    per_layer = 4 * attention.heads * attention.head_dim * mean_context(length, attention.window)
    return 2 * matmul_params(specs) + model.layers * per_layer


def train_flops_per_token(model: ModelConfig, specs: Params, length: int) -> float:
    """FLOPs of forward and backward pass for one token: three times the forward pass."""
    return 3 * forward_flops_per_token(model, specs, length)
