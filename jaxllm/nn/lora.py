"""Low-rank adapters of a linear map (Hu et al. 2021, LoRA, arXiv:2106.09685), attached to it.

y = x · W + scale · x · A · B, where W stays as it is. DoRA (Liu et al. 2024, arXiv:2402.09353)
learns the length of each output's weights apart: W + scale · A · B with the columns made as long as
`magnitude` says.

Shapes: I… inputs, R rank, O… outputs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxllm.nn.module import Module, Param


class Factor(Module):
    """One of the two thin matrices; `start` is what it began as, if the base lacks that part."""

    def __init__(self, kernel: Param, start: Param | None = None):
        self.kernel, self.start = kernel, start


class Lora(Module):
    """The adapter of one linear map."""

    def __init__(
        self, a: Factor, b: Factor, magnitude: Param | None, *, scale: float, dropout: float,
        place: int,
    ):
        """a [I…, R], b [R, O…], magnitude [O…]; `place` tells this adapter's dropout from others'.
        """
        self.a, self.b, self.magnitude = a, b, magnitude
        self.scale, self.dropout, self.place = scale, dropout, place

    def delta(self) -> jax.Array:
        """scale · A · B, float32 [I…, O…]."""
        return product(self.a.kernel[...], self.b.kernel[...], self.scale)

    def lengths(self, kernel: jax.Array) -> jax.Array:
        """What DoRA multiplies each output with [O…], float32; no gradient goes through the norm.
        """
        whole = jax.lax.stop_gradient(kernel.astype(jnp.float32) + self.delta())
        outputs = self.magnitude[...].ndim
        return self.magnitude[...].astype(jnp.float32) / norms(whole, kernel.ndim - outputs)


def product(a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """scale · A · B, float32 [I…, O…], of a [I…, R] and b [R, O…]."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return scale * jnp.tensordot(a, b, 1, precision=jax.lax.Precision.HIGHEST)


def norms(kernel: jax.Array, inputs: int) -> jax.Array:
    """The length of each output's weights [O…], float32."""
    return jnp.sqrt(jnp.sum(kernel.astype(jnp.float32) ** 2, axis=tuple(range(inputs))))
