"""Normalisations of the last dimensions; statistics in float32 whatever the compute dtype."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxllm.core.errors import unknown
from jaxllm.nn.compute import Compute
from jaxllm.nn.config import NormConfig
from jaxllm.nn.module import Module, ones, parameter, zeros


class RMSNorm(Module):
    """x / rms(x) · scale (Zhang & Sennrich 2019), over the last `len(sizes)` dimensions."""

    def __init__(self, key: jax.Array, compute: Compute, sizes: dict[str, int], config: NormConfig):
        """`sizes` maps the logical axes of the normalised dimensions to their sizes."""
        init = zeros if config.unit_offset else ones
        self.scale = (
            parameter(key, tuple(sizes.values()), tuple(sizes), init, compute.param_dtype)
            if config.learned else None
        )
        self.dims = tuple(range(-len(sizes), 0))
        self.config, self.compute = config, compute

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        square = jnp.mean(x32 * x32, self.dims, keepdims=True)
        x32 = x32 * jax.lax.rsqrt(square + self.config.eps)
        return _scaled(x32, self.scale, self.config).astype(self.compute.dtype)


class LayerNorm(Module):
    """(x - mean) / std · scale + bias (Ba et al. 2016), over the last `len(sizes)` dimensions."""

    def __init__(self, key: jax.Array, compute: Compute, sizes: dict[str, int], config: NormConfig):
        """`sizes` maps the logical axes of the normalised dimensions to their sizes."""
        shape, axes, dtype = tuple(sizes.values()), tuple(sizes), compute.param_dtype
        init = zeros if config.unit_offset else ones
        self.scale = parameter(key, shape, axes, init, dtype) if config.learned else None
        self.bias = parameter(key, shape, axes, zeros, dtype) if config.learned else None
        self.dims = tuple(range(-len(sizes), 0))
        self.config, self.compute = config, compute

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 - jnp.mean(x32, self.dims, keepdims=True)
        square = jnp.mean(x32 * x32, self.dims, keepdims=True)
        x32 = x32 * jax.lax.rsqrt(square + self.config.eps)
        x32 = _scaled(x32, self.scale, self.config)
        return (x32 if self.bias is None else x32 + self.bias[...]).astype(self.compute.dtype)


def _scaled(x32: jax.Array, scale, config: NormConfig) -> jax.Array:
    if scale is None:
        return x32
    scale = scale[...].astype(jnp.float32)
    return x32 * (1.0 + scale if config.unit_offset else scale)


NORMS = {"rmsnorm": RMSNorm, "layernorm": LayerNorm}


def make_norm(
    key: jax.Array, compute: Compute, sizes: int | dict[str, int], config: NormConfig
) -> Module:
    """The normalisation named by `config.kind`, over a width or over named dimensions."""
    if config.kind not in NORMS:
        raise unknown("model.norm.kind", config.kind, NORMS)
    sizes = {"norm": sizes} if isinstance(sizes, int) else sizes
    return NORMS[config.kind](key, compute, sizes, config)
