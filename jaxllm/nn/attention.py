"""The self-attention sublayer, in training and with a key/value cache.

Shapes: B batch, T tokens, S cache slots, L layers, D width, N query heads, K key/value heads,
H head dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxllm.nn.compute import Compute
from jaxllm.nn.config import AttentionConfig
from jaxllm.nn.kernels.attention import Pattern, Places, attend
from jaxllm.nn.layers import Linear
from jaxllm.nn.module import Module
from jaxllm.nn.positions import Rotation, rotate


class Cache(NamedTuple):
    """Keys and values of the tokens seen so far, slot = position; [L, B, S, K, H] each."""

    keys: jax.Array
    values: jax.Array


class CacheSlots(NamedTuple):
    """The cache inside one layer: whose rows are read and written, and where."""

    cache: Cache
    layer: jax.Array  # index of the layer, int32
    positions_BT: jax.Array  # slot that each token of the call is written to


class Attention(Module):
    """Grouped-query self-attention."""

    def __init__(
        self, key: jax.Array, compute: Compute, width: int, config: AttentionConfig,
        *, stddev: float, output_stddev: float,
    ):
        heads = {"heads": config.heads, "head_dim": config.head_dim}
        kv_heads = {"kv_heads": config.kv_heads, "head_dim": config.head_dim}
        embed = {"embed": width}
        keys = jax.random.split(key, 4)
        into = {"stddev": stddev, "bias": config.bias}
        self.query = Linear(keys[0], compute, embed, heads, **into)
        self.key = Linear(keys[1], compute, embed, kv_heads, **into)
        self.value = Linear(keys[2], compute, embed, kv_heads, **into)
        self.output = Linear(
            keys[3], compute, heads, embed, stddev=output_stddev, bias=config.output_bias
        )
        self.pattern = Pattern(
            window=config.window, softcap=config.softcap, dropout=config.dropout
        )
        self.compute = compute

    def __call__(
        self, x_BTD: jax.Array, rotation: Rotation | None, segments_BT: jax.Array | None,
        key: jax.Array | None = None, slots: CacheSlots | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """The sublayer's output [B, T, D], and the cache with this call's keys and values."""
        q, k, v = self.query(x_BTD), self.key(x_BTD), self.value(x_BTD)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        q, k, v = (
            checkpoint_name(self.compute.constrain(
                y, "batch", "sequence", "act_heads", "head_dim"), name)
            for y, name in ((q, "query"), (k, "key"), (v, "value"))
        )
        cache, places = None, Places(None, None, segments_BT, segments_BT)
        if slots is not None:
            cache = _write(slots, k, v)
            k, v = (side[slots.layer].astype(q.dtype) for side in cache)
            slot_index = jnp.arange(k.shape[1], dtype=jnp.int32)[None]
            places = Places(slots.positions_BT, slot_index, None, None)
        out = attend(q, k, v, self.pattern, places, self.compute, key)
        return self.output(checkpoint_name(out, "attention")), cache


def _write(slots: CacheSlots, k_BTKH: jax.Array, v_BTKH: jax.Array) -> Cache:
    rows = jnp.arange(k_BTKH.shape[0])[:, None]
    place = (slots.layer, rows, slots.positions_BT)
    return Cache(*(
        side.at[place].set(new.astype(side.dtype), mode="drop")
        for side, new in zip(slots.cache, (k_BTKH, v_BTKH), strict=True)
    ))
