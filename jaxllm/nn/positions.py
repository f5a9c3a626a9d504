"""Where a token stands: rotary embeddings with their scalings, and biases on attention scores.

Shapes: B batch, T tokens (queries), S keys, N heads, H head dimension, R rotated dimensions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.errors import UserError, unknown
from jaxllm.nn.compute import Compute
from jaxllm.nn.config import PositionConfig
from jaxllm.nn.module import Module, normal, parameter


class Rotation(NamedTuple):
    """Sines and cosines of every position's angles, float32 [B, T, 1, R/2]; one for all layers."""

    sin: jax.Array
    cos: jax.Array


def rotated_dims(config: PositionConfig, head_dim: int) -> int:
    """How many dimensions of each head RoPE turns; the first ones, an even number."""
    return int(head_dim * config.rotary_fraction)


def rotations(
    positions_BT: jax.Array, config: PositionConfig, head_dim: int, length: int = 0
) -> dict[str, Rotation]:
    """The rotation of tokens at these positions in "global" and in "local" layers.

    `length` is how long the whole text can become, where that is known and the call holds a part of
    it; 0: it ends with the call.
    """
    dims = rotated_dims(config, head_dim)
    inverse = 1.0 / config.theta ** (np.arange(0, dims, 2, dtype=np.float32) / dims)
    if config.scaling not in SCALINGS:
        raise unknown("model.positions.scaling", config.scaling, SCALINGS)
    scaled, factor = SCALINGS[config.scaling](inverse, config, length or jnp.max(positions_BT) + 1)
    everywhere = _rotation(positions_BT, scaled, factor)
    if not config.local_theta:
        return {"global": everywhere, "local": everywhere}
    local = 1.0 / config.local_theta ** (np.arange(0, dims, 2, dtype=np.float32) / dims)
    return {"global": everywhere, "local": _rotation(positions_BT, local, 1.0)}


def _rotation(positions_BT: jax.Array, frequencies, factor: float) -> Rotation:
    frequencies = jnp.asarray(frequencies, jnp.float32)
    angles = positions_BT[..., None, None].astype(jnp.float32) * frequencies
    return Rotation(jnp.sin(angles) * factor, jnp.cos(angles) * factor)


def rotate(x_BTNH: jax.Array, by: Rotation) -> jax.Array:
    """Rotates dimension i with i + R/2 (the pairing of Hugging Face); those after R stay."""
    half = by.sin.shape[-1]
    x32 = x_BTNH.astype(jnp.float32)
    first, second, rest = x32[..., :half], x32[..., half : 2 * half], x32[..., 2 * half :]
    turned = (first * by.cos - second * by.sin, second * by.cos + first * by.sin)
    parts = turned if 2 * half == x_BTNH.shape[-1] else (*turned, rest)
    return jnp.concatenate(parts, axis=-1).astype(x_BTNH.dtype)


# A scaling takes RoPE's frequencies [R/2] in radians per position, the configuration and the length
# of the text; it gives the frequencies to use and the factor on sines and cosines.


def _unscaled(inverse, config, length):
    return inverse, 1.0


def _linear(inverse, config, length):
    """Positions are squeezed (Chen et al. 2023, position interpolation)."""
    return inverse / config.scaling_factor, 1.0


def _llama3(inverse, config, length):
    """Slow rotations are divided by the factor, fast ones kept, those between blended.

    Llama 3.1's `apply_scaling` (Meta, 2024).
    """
    wavelength = 2 * math.pi / inverse
    low, high = config.low_frequency_factor, config.high_frequency_factor
    blend = (config.original_max_length / wavelength - low) / (high - low)
    blend = np.clip(blend, 0.0, 1.0)
    return (1 - blend) * inverse / config.scaling_factor + blend * inverse, 1.0


def _yarn(inverse, config, length):
    """Blended by how often a dimension turns within the original context (Peng et al. 2023)."""
    dims = 2 * len(inverse)

    def dimension(turns: float) -> float:
        length = config.original_max_length / (turns * 2 * math.pi)
        return dims * math.log(length) / (2 * math.log(config.theta))

    low = max(math.floor(dimension(config.beta_fast)), 0)
    high = min(math.ceil(dimension(config.beta_slow)), dims - 1)
    ramp = (np.arange(dims // 2, dtype=np.float32) - low) / max(high - low, 1e-3)
    keep = 1.0 - np.clip(ramp, 0.0, 1.0)
    scaled = inverse / config.scaling_factor * (1 - keep) + inverse * keep
    factor = config.attention_factor or 0.1 * math.log(max(config.scaling_factor, 1.0)) + 1.0
    return scaled, factor


def _longrope(inverse, config, length):
    """Each frequency has a divisor of its own, another set beyond the original context.

    Ding et al. 2024. Which set is used follows from the length of the text.
    """
    for name in ("short_factors", "long_factors"):
        if len(getattr(config, name)) != len(inverse):
            raise UserError(
                f"model.positions.{name} has {len(getattr(config, name))} numbers and the heads "
                f"{len(inverse)} frequencies: give one for each."
            )
    stretch = config.max_length / config.original_max_length
    usual = 1.0 if stretch <= 1 else math.sqrt(
        1 + math.log(stretch) / math.log(config.original_max_length)
    )
    beyond = length > config.original_max_length
    divisors = jnp.where(beyond, np.float32(config.long_factors), np.float32(config.short_factors))
    return inverse / divisors, config.attention_factor or usual


SCALINGS = {
    "none": _unscaled, "linear": _linear, "llama3": _llama3, "yarn": _yarn, "longrope": _longrope,
}


def alibi(query_index_BT: jax.Array, key_index_BS: jax.Array, heads: int) -> jax.Array:
    """Scores fall linearly with distance, at a slope of each head's own; float32 [B, N, T, S].

    Press et al. 2022; slopes of head counts that are no power of two as in its reference code.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * i / power) for i in range(1, power + 1)]
    slopes += [2.0 ** (-4 * i / power) for i in range(1, 2 * (heads - power) + 1, 2)]
    distance = key_index_BS[:, None, None, :] - query_index_BT[:, None, :, None]
    return distance * jnp.asarray(slopes, jnp.float32)[None, :, None, None]


class RelativeBias(Module):
    """A learned bias on attention scores by head and bucket of distance, for all layers (T5).

    Raffel et al. 2020, section 2.1: near distances have buckets of their own, far ones share.
    """

    def __init__(
        self, key: jax.Array, compute: Compute, heads: int, config: PositionConfig,
        *, bidirectional: bool, stddev: float,
    ):
        self.table = parameter(
            key, (config.buckets, heads), ("bucket", "heads"), normal(stddev), compute.param_dtype
        )
        self.config, self.bidirectional = config, bidirectional

    def __call__(self, query_index_BT: jax.Array, key_index_BS: jax.Array) -> jax.Array:
        """The biases, float32 [B, N, T, S]."""
        distance = key_index_BS[:, None, :] - query_index_BT[:, :, None]
        bias_BTSN = self.table[...].astype(jnp.float32)[self._bucket(distance)]
        return bias_BTSN.transpose(0, 3, 1, 2)

    def _bucket(self, distance_BTS: jax.Array) -> jax.Array:
        """Bucket of each distance (key minus query), int32."""
        buckets, first = self.config.buckets, 0
        if self.bidirectional:
            buckets //= 2
            first = jnp.where(distance_BTS > 0, buckets, 0)
            far = jnp.abs(distance_BTS)
        else:
            far = jnp.maximum(-distance_BTS, 0)
        exact = buckets // 2
        reach = math.log(self.config.max_distance / exact)
        shared = jnp.log(jnp.maximum(far, 1).astype(jnp.float32) / exact) / reach
        shared = exact + (shared * (buckets - exact)).astype(jnp.int32)
        return first + jnp.where(far < exact, far, jnp.minimum(shared, buckets - 1))
