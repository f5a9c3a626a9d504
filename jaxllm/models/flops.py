"""Analytic FLOPs of a model, the numerator of MFU.

A product of [m, k] and [k, n] costs 2·m·k·n; only matrix products count, as in Chowdhery et al.
2022 (PaLM, appendix B). Causal attention is counted once: a token attends to half the sequence on
average, not to all of it. Recomputation (remat) is not counted.
"""

from __future__ import annotations

import dataclasses
import math

import jax

from jaxllm.models.config import LANGUAGE_HEADS, ModelConfig
from jaxllm.models.parameters import entries, is_spec
from jaxllm.nn.module import Params


def kernel_params(specs: Params) -> int:
    """Entries of the kernels in a tree: what a token is multiplied with."""
    leaves = jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec)
    named = [(tuple(key.key for key in path), spec) for path, spec in leaves]
    return sum(entries(path, spec) for path, spec in named if "kernel" in path[-2:])


def mean_context(length: int, window: int = 0) -> float:
    """Keys that a query of a causal sequence sees on average: half of `length` without a window.

    Counted as an area, as is usual: at most half a key less than the exact (length + 1) / 2.
    """
    reach = min(window, length) if window else length
    return reach - reach * reach / (2 * length)


def forward_flops_per_row(
    model: ModelConfig, specs: Params, length: int, encoder_length: int = 0, targets: int = 0
) -> float:
    """FLOPs of the forward pass of one row of `length` tokens, and its encoder's row.

    The vocabulary is scored at `targets` places; 0: at all.
    """
    total = _head_flops(model, specs, targets or length)
    if model.architecture == "decoder":
        return total + _tower_flops(model, specs["decoder"], length, causal=True)
    encoder = model.encoder_config()
    if model.architecture == "encoder":
        return total + _tower_flops(encoder, specs["encoder"], length, causal=False)
    total += _tower_flops(encoder, specs["encoder"], encoder_length, causal=False)
    total += _tower_flops(model, specs["decoder"], length, causal=True)
    # of cross-attention, keys and values are the encoder's tokens
    moved = sum(
        kernel_params({name: layers["cross"][name] for name in ("key", "value")})
        for layers in specs["decoder"]["layers"].values()
    )
    total += 2 * moved * (encoder_length - length)
    return total + model.layers * length * _attention_flops(model, encoder_length)


def train_flops_per_row(
    model: ModelConfig, specs: Params, length: int, encoder_length: int = 0, targets: int = 0
) -> float:
    """FLOPs of forward and backward pass of one row: three times the forward pass.

    Kernels that adapters leave as they are get no gradient: their products count twice.
    """
    trained = jax.tree.map(
        lambda spec: spec if spec.trained else dataclasses.replace(spec, shape=(0,)),
        specs, is_leaf=is_spec,
    )
    forward, adapted = (
        forward_flops_per_row(model, tree, length, encoder_length, targets)
        for tree in (specs, trained)
    )
    return 2 * forward + adapted


def _tower_flops(config: ModelConfig, specs: Params, length: int, causal: bool) -> float:
    """Self-attention and MLPs of a tower over a row."""
    attention, total = config.attention, 2 * kernel_params(specs) * length
    for layer in range(config.layers):
        local = attention.pattern[layer % len(attention.pattern)] == "local"
        window = attention.window if local else 0
        keys = mean_context(length, window)
        if not causal:
            keys = min(2 * window - 1, length) if window else length
        total += length * _attention_flops(config, keys)
    return total


def _attention_flops(config: ModelConfig, keys: float) -> float:
    """Scores and the weighted sum of one query: 2 products of 2·H FLOPs per head and key."""
    return 4 * config.attention.heads * config.attention.head_dim * keys


def _head_flops(model: ModelConfig, specs: Params, length: int) -> float:
    params = kernel_params(specs["head"]) if "head" in specs else 0
    language = model.head.kind in LANGUAGE_HEADS
    if language and model.tied:
        params += math.prod(specs["embedding"]["table"].shape)
    # the other heads but token classification see one state a row
    return 2 * params * (length if language or model.head.pooling == "none" else 1)
