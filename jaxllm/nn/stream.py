"""The residual stream between sublayers: cut along the sequence by tensor parallelism too.

Norms, dropout and sums work on one token at a time, so with tensor parallelism each device does
its share of the tokens, and what layers save is cut as well (Korthikanti et al. 2022, section
4.2.2). Projections need all tokens of a row: the stream is gathered before them, and what they give
is scattered as it is summed over the devices' heads or hidden units. Backward it is the other way
round, which autodiff of a sharding constraint would not do: it pins a gradient where its value was.

Lengths that do not divide (a decode step's one token) stay as they are.
"""

from __future__ import annotations

from functools import partial

import jax

from jaxllm.core.mesh import Sharding
from jaxllm.nn.compute import Compute


def pin(x_BTD: jax.Array, compute: Compute) -> jax.Array:
    """The stream in its place, [B, T, D]."""
    return compute.constrain(x_BTD, "batch", compute.sharding.stream(x_BTD.shape[1]), "act_embed")


def gather(x_BTD: jax.Array, compute: Compute) -> jax.Array:
    """The stream as projections read it: all tokens that `context` leaves on a device."""
    return _moved(compute.sharding, compute.sharding.stream(x_BTD.shape[1]), "sequence", x_BTD)


def scatter(y_BTD: jax.Array, compute: Compute) -> jax.Array:
    """What a projection gives to the stream, summed over `tensor`, each device its tokens."""
    return _moved(compute.sharding, "sequence", compute.sharding.stream(y_BTD.shape[1]), y_BTD)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _moved(sharding: Sharding, start: str, end: str, x_BTD: jax.Array) -> jax.Array:
    """`x` whose tokens lie along `end`, its gradient along `start`."""
    return _move(sharding, start, end, x_BTD)


def _move(sharding: Sharding, start: str, end: str, x_BTD: jax.Array) -> jax.Array:
    if end == "sequence":
        # Said of both ends, or the gather moves before the cast to the dtype of compute. Not where
        # the stream is scattered: sums that are pinned whole are all-reduced.
        x_BTD = sharding.constrain(x_BTD, "batch", start, "act_embed")
    return sharding.constrain(x_BTD, "batch", end, "act_embed")


_moved.defvjp(
    lambda sharding, start, end, x: (_move(sharding, start, end, x), None),
    lambda sharding, start, end, _, g: (_move(sharding, end, start, g),),
)
