"""Rotary position embeddings (Su et al. 2021), with Llama 3.1's frequency scaling.

Shapes: B batch, T tokens, N heads, H head dimension.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.errors import unknown
from jaxllm.nn.config import PositionConfig


class Rotation(NamedTuple):
    """Sines and cosines of every position's angles, float32 [B, T, 1, H/2]; one for all layers."""

    sin: jax.Array
    cos: jax.Array


def frequencies(config: PositionConfig, head_dim: int) -> np.ndarray:
    """Radians per position for each pair of dimensions, float32 [H/2]."""
    inverse = 1.0 / config.theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    if config.scaling not in SCALINGS:
        raise unknown("model.positions.scaling", config.scaling, SCALINGS)
    return SCALINGS[config.scaling](inverse, config).astype(np.float32)


def rotation(positions_BT: jax.Array, config: PositionConfig, head_dim: int) -> Rotation:
    """The rotation of tokens at these positions."""
    angles = positions_BT[..., None, None].astype(jnp.float32) * frequencies(config, head_dim)
    return Rotation(jnp.sin(angles), jnp.cos(angles))


def rotate(x_BTNH: jax.Array, by: Rotation) -> jax.Array:
    """Rotates dimension i with i + H/2 (the pairing of Hugging Face's Llama)."""
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    rotated = (first * by.cos - second * by.sin, second * by.cos + first * by.sin)
    return jnp.concatenate(rotated, axis=-1).astype(x_BTNH.dtype)


def _unscaled(inverse: np.ndarray, config: PositionConfig) -> np.ndarray:
    return inverse


def _llama3(inverse: np.ndarray, config: PositionConfig) -> np.ndarray:
    """Slow rotations are divided by the factor, fast ones kept, those between blended.

    Llama 3.1's `apply_scaling` (Meta, 2024).
    """
    wavelength = 2 * math.pi / inverse
    low, high = config.low_frequency_factor, config.high_frequency_factor
    blend = (config.original_max_length / wavelength - low) / (high - low)
    blend = np.clip(blend, 0.0, 1.0)
    return (1 - blend) * inverse / config.scaling_factor + blend * inverse


SCALINGS = {"none": _unscaled, "llama3": _llama3}
