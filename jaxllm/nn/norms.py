"""Normalisations of the last dimension; statistics in float32 whatever the compute dtype."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxllm.core.errors import unknown
from jaxllm.nn.compute import Compute
from jaxllm.nn.config import NormConfig
from jaxllm.nn.module import Module, ones, parameter, zeros


class RMSNorm(Module):
    """x / rms(x) · scale (Zhang & Sennrich 2019)."""

    def __init__(self, key: jax.Array, compute: Compute, width: int, eps: float):
        self.scale = parameter(key, (width,), ("norm",), ones, compute.param_dtype)
        self.eps, self.compute = eps, compute

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + self.eps)
        return (x32 * self.scale[...]).astype(self.compute.dtype)


class LayerNorm(Module):
    """(x - mean) / std · scale + bias (Ba et al. 2016)."""

    def __init__(self, key: jax.Array, compute: Compute, width: int, eps: float):
        self.scale = parameter(key, (width,), ("norm",), ones, compute.param_dtype)
        self.bias = parameter(key, (width,), ("norm",), zeros, compute.param_dtype)
        self.eps, self.compute = eps, compute

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 - jnp.mean(x32, -1, keepdims=True)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + self.eps)
        return (x32 * self.scale[...] + self.bias[...]).astype(self.compute.dtype)


NORMS = {"rmsnorm": RMSNorm, "layernorm": LayerNorm}


def make_norm(key: jax.Array, compute: Compute, width: int, config: NormConfig) -> Module:
    """The normalisation named by `config.kind`."""
    if config.kind not in NORMS:
        raise unknown("model.norm.kind", config.kind, NORMS)
    return NORMS[config.kind](key, compute, width, config.eps)
