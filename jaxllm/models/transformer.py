"""The one Transformer: every family is a configuration of it.

Shapes: B batch, T tokens, S cache slots, L layers, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models.config import ModelConfig
from jaxllm.nn.attention import Attention, Cache, CacheSlots
from jaxllm.nn.compute import Compute
from jaxllm.nn.layers import Embedding, Linear, dropout, residual_stddev
from jaxllm.nn.mlp import Mlp
from jaxllm.nn.module import Module, Stack
from jaxllm.nn.norms import make_norm
from jaxllm.nn.positions import Rotation, rotation


class Block(Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, key: jax.Array, config: ModelConfig, compute: Compute):
        keys = jax.random.split(key, 4)
        init = config.init
        stddevs = {
            "stddev": init.stddev,
            "output_stddev": residual_stddev(init.stddev, config.layers, init.scale_residual),
        }
        self.attention_norm = make_norm(keys[0], compute, config.width, config.norm)
        self.attention = Attention(keys[1], compute, config.width, config.attention, **stddevs)
        self.mlp_norm = make_norm(keys[2], compute, config.width, config.norm)
        self.mlp = Mlp(keys[3], compute, config.width, config.mlp, **stddevs)
        self.dropout, self.compute = config.dropout, compute

    def __call__(
        self, x_BTD: jax.Array, turn: Rotation | None, segments_BT: jax.Array | None,
        key: jax.Array | None, slots: CacheSlots | None,
    ) -> tuple[jax.Array, Cache | None]:
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        y, cache = self.attention(self.attention_norm(x_BTD), turn, segments_BT, keys[0], slots)
        x_BTD = self._add(x_BTD, y, keys[1])
        return self._add(x_BTD, self.mlp(self.mlp_norm(x_BTD)), keys[2]), cache

    def _add(self, x_BTD: jax.Array, y_BTD: jax.Array, key: jax.Array | None) -> jax.Array:
        total = x_BTD + dropout(y_BTD, self.dropout, key)
        return self.compute.constrain(total, "batch", "sequence", "act_embed")


class Transformer(Module):
    """A decoder: token ids in, hidden states or logits out."""

    def __init__(self, key: jax.Array, config: ModelConfig, compute: Compute):
        keys = jax.random.split(key, 5)
        stddev, width = config.init.stddev, config.width
        self.embedding = Embedding(keys[0], compute, config.vocab_size, width, stddev=stddev)
        length = config.positions.max_length
        self.positions = (
            Embedding(keys[1], compute, length, width, stddev=stddev, axis="position")
            if config.positions.kind == "learned" else None
        )
        self.layers = Stack(partial(Block, config=config, compute=compute), config.layers, keys[2])
        self.norm = make_norm(keys[3], compute, width, config.norm)
        outputs = {"vocab": config.vocab_size}
        self.head = (
            None if config.tied
            else Linear(keys[4], compute, {"embed": width}, outputs, stddev=stddev)
        )
        self.config, self.compute = config, compute

    def hidden(
        self, ids_BT: jax.Array, positions_BT: jax.Array, segments_BT: jax.Array | None = None,
        key: jax.Array | None = None, *, every_layer: Callable[[jax.Array], Any] | None = None,
    ) -> Any:
        """Normalised hidden states [B, T, D]; dropout is on when `key` is given.

        `segments_BT` keeps documents apart (0 is padding); None: one document a row.
        `every_layer` is applied to the residual stream instead, after the embedding and after
        each layer; what it gives is stacked, [L + 1, …].
        """
        keys = (None, None) if key is None else jax.random.split(key)
        x_BTD, turn = self._embed(ids_BT, positions_BT, keys[0])
        layer_keys = None if key is None else jax.random.split(keys[1], self.config.layers)

        def step(layer: Block, x: jax.Array, key: jax.Array | None):
            y, _ = layer(x, turn, segments_BT, key, None)
            return y, (every_layer(y) if every_layer else None)

        y_BTD, outputs = self.layers.scan(
            step, x_BTD, layer_keys, wrap=self.compute.checkpoint, unroll=self.compute.unroll
        )
        if every_layer:
            return jax.tree.map(
                lambda first, rest: jnp.concatenate([first[None], rest]),
                every_layer(x_BTD), outputs,
            )
        return self.norm(y_BTD)

    def decode(
        self, ids_BT: jax.Array, positions_BT: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Hidden states [B, T, D] of tokens at `positions_BT`, and the cache with them in it."""
        x_BTD, turn = self._embed(ids_BT, positions_BT, None)

        def step(layer: Block, carry, index: jax.Array):
            x, cache = carry
            return layer(x, turn, None, None, CacheSlots(cache, index, positions_BT)), None

        indices = jnp.arange(self.config.layers)
        (x_BTD, cache), _ = self.layers.scan(step, (x_BTD, cache), indices)
        return self.norm(x_BTD), cache

    def head_kernel(self) -> jax.Array:
        """The output projection [D, V] in the parameters' dtype."""
        return self.embedding.as_head() if self.head is None else self.head.kernel[...]

    def logits(self, hidden_BTD: jax.Array) -> jax.Array:
        """Next-token scores, float32 [B, T, V]."""
        kernel = self.head_kernel().astype(hidden_BTD.dtype)
        logits = jnp.einsum("btd,dv->btv", hidden_BTD, kernel, preferred_element_type=jnp.float32)
        logits = softcap(logits, self.config.logit_softcap)
        return self.compute.constrain(logits, "batch", "sequence", "act_vocab")

    def empty_cache(self, batch: int, slots: int) -> Cache:
        """A cache of zeros for `batch` rows of up to `slots` tokens."""
        attention = self.config.attention
        shape = (self.config.layers, batch, slots, attention.kv_heads, attention.head_dim)
        zeros = self.compute.constrain(
            jnp.zeros(shape, self.compute.dtype),
            None, "batch", "cache", "act_heads", "head_dim",
        )
        return Cache(zeros, zeros)

    def _embed(self, ids_BT, positions_BT, key) -> tuple[jax.Array, Rotation | None]:
        x_BTD = self.embedding(ids_BT)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(positions_BT)
        x_BTD = dropout(x_BTD, self.config.dropout, key)
        x_BTD = self.compute.constrain(x_BTD, "batch", "sequence", "act_embed")
        if self.config.positions.kind != "rope":
            return x_BTD, None
        head_dim = self.config.attention.head_dim
        return x_BTD, rotation(positions_BT, self.config.positions, head_dim)


def softcap(logits: jax.Array, cap: float) -> jax.Array:
    """cap · tanh(logits / cap), or the logits when `cap` is 0 (Gemma 2)."""
    return cap * jnp.tanh(logits / cap) if cap else logits
