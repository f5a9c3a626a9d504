"""The attention sublayers, in training and with a key/value cache.

Shapes: B batch, T tokens, S keys or cache slots, L layers, D width, N query heads, K key/value
heads, H head dimension.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxllm.core.errors import unknown
from jaxllm.nn.compute import Compute
from jaxllm.nn.config import AttentionConfig, NormConfig
from jaxllm.nn.kernels.attention import Pattern, Places, attend
from jaxllm.nn.layers import Linear
from jaxllm.nn.module import Module
from jaxllm.nn.norms import make_norm
from jaxllm.nn.positions import Rotation, rotate

QK_NORMS = ("none", "head", "all")


class Cache(NamedTuple):
    """Keys and values of the tokens seen so far, slot = position; [L, B, S, K, H] each."""

    keys: jax.Array
    values: jax.Array


class CacheSlots(NamedTuple):
    """The cache inside one layer: whose rows are read and written, and where."""

    cache: Cache
    layer: jax.Array  # index of the layer, int32
    positions_BT: jax.Array  # slot that each token of the call is written to


class _Projections(Module):
    """Queries, keys, values and the output: what all attention has."""

    def __init__(
        self, key: jax.Array, compute: Compute, width: int, config: AttentionConfig,
        norm: NormConfig, *, stddev: float, query_stddev: float, output_stddev: float,
    ):
        if config.qk_norm not in QK_NORMS:
            raise unknown("model.attention.qk_norm", config.qk_norm, QK_NORMS)
        heads = {"heads": config.heads, "head_dim": config.head_dim}
        kv_heads = {"kv_heads": config.kv_heads, "head_dim": config.head_dim}
        embed = {"embed": width}
        keys = jax.random.split(key, 6)
        into = {"stddev": stddev, "bias": config.bias}
        self.query = Linear(
            keys[0], compute, embed, heads, stddev=query_stddev, bias=config.bias
        )
        self.key = Linear(keys[1], compute, embed, kv_heads, **into)
        self.value = Linear(keys[2], compute, embed, kv_heads, **into)
        self.output = Linear(
            keys[3], compute, heads, embed, stddev=output_stddev, bias=config.output_bias
        )

        def qk_norm(key, sizes):
            if config.qk_norm == "none":
                return None
            each = {"head_dim": config.head_dim}
            return make_norm(key, compute, each if config.qk_norm == "head" else sizes, norm)

        self.query_norm, self.key_norm = qk_norm(keys[4], heads), qk_norm(keys[5], kv_heads)
        self.config, self.compute = config, compute

    def pattern(self, causal: bool, kind: str) -> Pattern:
        """What a layer of this kind lets its queries see."""
        config = self.config
        return Pattern(
            causal, config.window if kind == "local" else 0, config.softcap, config.scale,
            config.dropout,
        )

    def project_query(self, x_BTD: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Queries [B, T, N, H]."""
        return self._shaped(self.query, self.query_norm, x_BTD, key)

    def project_key_value(
        self, x_BSD: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Keys and values, [B, S, K, H] each."""
        return (
            self._shaped(self.key, self.key_norm, x_BSD, key),
            self._shaped(self.value, None, x_BSD, key),
        )

    def _shaped(
        self, linear: Linear, norm: Module | None, x: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        y = linear(x, key)
        if self.config.clip:
            y = jnp.clip(y, -self.config.clip, self.config.clip)
        return y if norm is None else norm(y)

    def _heads(self, y: jax.Array, name: str) -> jax.Array:
        """`y` with its heads on their devices, named for remat policies."""
        return checkpoint_name(
            self.compute.constrain(y, "batch", "sequence", "act_heads", "head_dim"), name
        )


class Attention(_Projections):
    """Grouped-query self-attention."""

    def __init__(self, *args, causal: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.causal = causal

    def __call__(
        self, x_BTD: jax.Array, kind: str, rotation: Rotation | None, places: Places,
        key: jax.Array | None = None, slots: CacheSlots | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """The sublayer's output [B, T, D], and the cache with this call's keys and values.

        `kind` is that of the layer, local or global. With `slots`, `places` is about the cache's
        slots as keys.
        """
        q, (k, v) = self.project_query(x_BTD, key), self.project_key_value(x_BTD, key)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        q, k, v = (self._heads(y, n) for y, n in ((q, "query"), (k, "key"), (v, "value")))
        cache = None
        if slots is not None:
            cache = _write(slots, k, v)
            k, v = (side[slots.layer].astype(q.dtype) for side in cache)
        out = attend(q, k, v, self.pattern(self.causal, kind), places, self.compute, key)
        return self.output(out, key), cache


class CrossAttention(_Projections):
    """Attention of a decoder to its encoder's output."""

    def __call__(
        self, x_BTD: jax.Array, keys_values: tuple[jax.Array, jax.Array], places: Places,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """The sublayer's output [B, T, D]; keys and values as `project_key_value` gives them."""
        q = self._heads(self.project_query(x_BTD, key), "query")
        k, v = (y.astype(q.dtype) for y in keys_values)
        pattern = dataclasses.replace(self.pattern(False, "global"), cross=True)
        out = attend(q, k, v, pattern, places, self.compute, key)
        return self.output(out, key)


def _write(slots: CacheSlots, k_BTKH: jax.Array, v_BTKH: jax.Array) -> Cache:
    rows = jnp.arange(k_BTKH.shape[0])[:, None]
    place = (slots.layer, rows, slots.positions_BT)
    return Cache(*(
        side.at[place].set(new.astype(side.dtype), mode="drop")
        for side, new in zip(slots.cache, (k_BTKH, v_BTKH), strict=True)
    ))
