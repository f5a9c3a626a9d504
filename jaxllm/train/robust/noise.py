"""Perturbations of embedded tokens: their shape, their size a text, and the norms they are kept to.

A text is a document of a packed row: its perturbation is the same as if it had the row to itself,
and padding gets none.

Shapes: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.data.batch import Batch
from jaxllm.train.scores import Noise, Passes

TINY = 1e-8  # below which a gradient's norm is not divided by (FreeLB's code)


class Texts(NamedTuple):
    """Which text each token of a side belongs to."""

    segments: jax.Array | None  # int32 [B, T], 0 is padding; None: a row is one text
    shape: tuple[int, int]  # B, T

    def real(self) -> jax.Array:
        """1 for tokens and 0 for padding, float32 [B, T, 1]."""
        if self.segments is None:
            return jnp.ones((*self.shape, 1))
        return (self.segments != 0)[..., None].astype(jnp.float32)

    def total(self, x_BT: jax.Array) -> jax.Array:
        """The sum over its text at each token, [B, T, 1]."""
        return self._gathered(x_BT, jax.ops.segment_sum, lambda x: x.sum(1, keepdims=True))

    def largest(self, x_BT: jax.Array) -> jax.Array:
        """The largest value of its text at each token, [B, T, 1]; values are not negative."""
        return self._gathered(x_BT, jax.ops.segment_max, lambda x: x.max(1, keepdims=True))

    def _gathered(self, x_BT, by_segment: Callable, whole: Callable) -> jax.Array:
        if self.segments is None:
            return jnp.broadcast_to(whole(x_BT), x_BT.shape)[..., None]
        count = self.shape[1] + 1

        def row(x_T, segments_T):
            return by_segment(x_T, segments_T, num_segments=count)[segments_T]

        return jax.vmap(row)(x_BT, self.segments)[..., None]


def texts_of(batch: Batch) -> Noise:
    """The texts of each side of a batch, in the places of its noise."""
    own = Texts(batch.segment_ids, batch.inputs.shape)
    if batch.encoder_inputs is None:
        return Noise(own)
    return Noise(own, Texts(batch.encoder_segment_ids, batch.encoder_inputs.shape))


def over_sides(function: Callable, texts: Noise, *noises: Noise) -> Noise:
    """`function(texts, noise, …)` of each side that there is."""
    return Noise(*(
        None if side is None else function(side, *(noise[place] for noise in noises))
        for place, side in enumerate(texts)
    ))


def drawn(passes: Passes, texts: Noise, key: jax.Array, draw: Callable) -> Noise:
    """`draw(key, shape)` for the embedded tokens of each side, 0 at padding."""
    keys, width, compute = jax.random.split(key), passes.model.width, passes.compute

    def one(place: int, side: Texts) -> jax.Array:
        x_BTD = draw(keys[place], (*side.shape, width)) * side.real()
        outside = compute.outside(side.shape[0])
        return outside.constrain(x_BTD, "batch", "sequence", None)

    return Noise(*(None if side is None else one(i, side) for i, side in enumerate(texts)))


def lengths(texts: Texts) -> jax.Array:
    """Tokens of its text at each token, [B, T, 1]; 1 at padding."""
    return jnp.maximum(texts.total(texts.real()[..., 0]), 1.0)


def norm(texts: Texts, x_BTD: jax.Array, kind: str) -> jax.Array:
    """The norm "l2" or "linf" of its text's entries at each token, [B, T, 1]."""
    if kind == "linf":
        return texts.largest(jnp.max(jnp.abs(x_BTD), axis=-1))
    return jnp.sqrt(texts.total(jnp.sum(x_BTD**2, axis=-1)))
