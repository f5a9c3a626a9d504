"""A stack of layers with its positions and last norm: a decoder, or an encoder.

Shapes: B batch, T tokens, S keys or cache slots, L layers, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.core.mesh import check_layers
from jaxllm.models.block import Block, Context
from jaxllm.models.config import ModelConfig
from jaxllm.nn import stream
from jaxllm.nn.attention import Cache, CacheSlots
from jaxllm.nn.compute import Compute
from jaxllm.nn.context import Order
from jaxllm.nn.kernels.attention import Places
from jaxllm.nn.layers import Embedding, dropout
from jaxllm.nn.module import Module, Stack
from jaxllm.nn.norms import make_norm
from jaxllm.nn.positions import RelativeBias, alibi, rotations


class Inputs(NamedTuple):
    """The tokens of a call, [B, T] each; `encoder` holds those of an encoder-decoder's encoder."""

    ids: jax.Array
    positions: jax.Array
    segments: jax.Array | None = None  # documents of a row, 0 is padding; None: one document
    prefix: jax.Array | None = None  # not 0: a token that is seen from before it too
    types: jax.Array | None = None  # token types; None: all 0
    encoder: Inputs | None = None
    order: Order | None = None  # in which the rows stand under context parallelism; None: as read
    noise: jax.Array | None = None  # [B, T, D], added to the tokens' embeddings (train/robust)


class Memory(NamedTuple):
    """The encoder's output, as a decoder attends to it."""

    states_BSD: jax.Array
    segments_BS: jax.Array | None  # the tokens' own, of `Inputs`


class Tower(Module):
    """Embedded tokens in, normalised hidden states out."""

    def __init__(
        self, key: jax.Array, config: ModelConfig, compute: Compute, *, causal: bool, cross: bool
    ):
        group = min(len(config.attention.pattern), config.layers)
        check_layers(compute.sharding, config.layers, group)
        keys = jax.random.split(key, 6)
        stddev, width, positions = config.init.stddev, config.width, config.positions
        table = partial(Embedding, compute=compute, width=width, stddev=stddev)
        self.positions = (
            table(keys[0], rows=positions.max_length + positions.offset, axis="position")
            if positions.kind == "learned" else None
        )
        types = config.embedding.types
        self.types = table(keys[1], rows=types, axis="type") if types else None
        self.embedding_norm = (
            make_norm(keys[2], compute, width, config.norm) if config.embedding.norm else None
        )
        self.bias = (
            RelativeBias(
                keys[3], compute, config.attention.heads, positions, bidirectional=not causal,
                stddev=config.init.of_matrix(width),
            )
            if positions.kind == "relative" else None
        )
        self.layers = Stack(
            partial(Block, config=config, compute=compute, causal=causal, cross=cross),
            config.layers, keys[4], group,
        )
        post = config.norm.placement == "post"  # then every layer ends with a norm
        self.norm = None if post else make_norm(keys[5], compute, width, config.norm)
        self.config, self.compute = config, compute

    def __call__(
        self, x_BTD: jax.Array, inputs: Inputs, key: jax.Array | None = None,
        memory: Memory | None = None, every_layer: Callable[[jax.Array], Any] | None = None,
    ) -> tuple[jax.Array, Any]:
        """Hidden states [B, T, D] of embedded tokens; dropout is on when `key` is given.

        `every_layer` is applied to the residual stream after the embedding and after each layer;
        the second result holds what it gave, stacked [L + 1, …].
        """
        keys = (None, None) if key is None else jax.random.split(key)
        x_BTD = self._embed(x_BTD, inputs, keys[0])
        places = Places(
            query_segments_BT=inputs.segments, key_segments_BS=inputs.segments,
            key_prefix_BS=None if inputs.prefix is None else inputs.prefix != 0,
            order=inputs.order,
        )
        context = self._context(inputs, places, memory)
        layer_keys = None if key is None else jax.random.split(keys[1], self.config.layers)

        def layer_of(layer: Block, place: int, x: jax.Array, key, context: Context) -> jax.Array:
            return layer(x, place, context, key)[0]

        given = (layer_of, x_BTD, layer_keys, context, self.compute)
        microbatches = self.compute.sharding.pipeline(x_BTD.shape[0])
        if not every_layer and microbatches:
            return self._normalised(self.layers.pipeline(*given, microbatches)), None
        if not every_layer and self.compute.sharding.parts("embed") > 1:
            return self._normalised(self.layers.scan_ahead(*given)), None

        def step(layer: Block, place: int, x: jax.Array, key: jax.Array | None):
            y, _ = layer(x, place, context, key)
            return y, (every_layer(y) if every_layer else None)

        y_BTD, rest = self.layers.scan(
            step, x_BTD, layer_keys, wrap=self.compute.checkpoint, unroll=self.compute.unroll
        )
        seen = None
        if every_layer:
            seen = jax.tree.map(
                lambda first, rest: jnp.concatenate([first[None], rest]), every_layer(x_BTD), rest
            )
        return self._normalised(y_BTD), seen

    def decode(
        self, x_BTD: jax.Array, inputs: Inputs, cache: Cache, memory: Memory | None = None,
        memory_cache: Cache | None = None,
    ) -> tuple[jax.Array, Cache]:
        """Hidden states of tokens that stand at `inputs.positions`, and the cache with them in it.

        `inputs.prefix`, [B, S] here, says which slots are seen from before them.
        """
        x_BTD = self._embed(x_BTD, inputs, None)
        slots = jnp.arange(cache.keys.shape[2], dtype=jnp.int32)[None]
        prefix = None if inputs.prefix is None else inputs.prefix != 0
        places = Places(inputs.positions, slots, key_prefix_BS=prefix)
        context = self._context(inputs._replace(segments=None), places, memory)

        def step(layer: Block, place: int, carry, index: jax.Array):
            x, cache = carry
            sides = None
            if memory_cache is not None:
                sides = (memory_cache.keys[index], memory_cache.values[index])
            slots = CacheSlots(cache, index, inputs.positions)
            return layer(x, place, context, None, slots, sides), None

        indices = jnp.arange(self.config.layers)
        (x_BTD, cache), _ = self.layers.scan(step, (x_BTD, cache), indices)
        return self._normalised(x_BTD), cache

    def memory_cache(self, memory: Memory) -> Cache:
        """Every layer's keys and values of the encoder's output, [L, B, S, K, H] each."""
        def step(layer: Block, place: int, carry, index):
            return carry, layer.cross.project_key_value(memory.states_BSD)

        return Cache(*self.layers.scan(step, None, jnp.arange(self.config.layers))[1])

    def empty_cache(self, batch: int, slots: int) -> Cache:
        """A cache of zeros for `batch` rows of up to `slots` tokens."""
        attention = self.config.attention
        shape = (self.config.layers, batch, slots, attention.kv_heads, attention.head_dim)
        zeros = self.compute.constrain(
            jnp.zeros(shape, self.compute.dtype),
            None, "batch", "cache", "act_heads", "head_dim",
        )
        return Cache(zeros, zeros)

    def _normalised(self, x_BTD: jax.Array) -> jax.Array:
        x_BTD = x_BTD if self.norm is None else self.norm(x_BTD)
        return stream.gather(x_BTD, self.compute.outside(x_BTD.shape[0]))

    def _embed(self, x_BTD: jax.Array, inputs: Inputs, key: jax.Array | None) -> jax.Array:
        if inputs.noise is not None:
            x_BTD = x_BTD + inputs.noise.astype(x_BTD.dtype)
        if self.config.embedding.scaled:
            x_BTD = x_BTD * jnp.asarray(math.sqrt(self.config.width), x_BTD.dtype)
        if self.types is not None:
            types = jnp.zeros_like(inputs.ids) if inputs.types is None else inputs.types
            x_BTD = x_BTD + self.types(types)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(inputs.positions + self.config.positions.offset)
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        own = self.config.embedding.dropout
        x_BTD = dropout(x_BTD, self.config.dropout if own < 0 else own, key)
        return stream.pin(x_BTD, self.compute.outside(x_BTD.shape[0]))

    def _context(self, inputs: Inputs, places: Places, memory: Memory | None) -> Context:
        """What the layers share: the rotations or biases of `config.positions`, and the memory."""
        config, turns, bias = self.config, None, None
        if config.positions.kind == "rope":
            # A cache keeps its keys as turned: by what it has room for, not by what came so far.
            slots = 0 if places.key_index_BS is None else places.key_index_BS.shape[1]
            turns = rotations(
                inputs.positions, config.positions, config.attention.head_dim, slots
            )
        elif config.positions.kind in ("alibi", "relative"):
            length = inputs.ids.shape[1]
            queries, keys = places.indices(length, length)
            bias = (
                alibi(queries, keys, config.attention.heads) if self.bias is None
                else self.bias(queries, keys)
            )
            bias = self.compute.constrain(bias, None, "act_heads", "sequence", None)
        places = places._replace(bias_BNTS=bias)
        if memory is None:
            return Context(turns, places)
        theirs, segments = memory.segments_BS, inputs.segments
        if theirs is None:
            segments = None
        elif segments is None:  # one document a row: only the encoder's padding is kept out
            segments = jnp.ones_like(inputs.ids)
        return Context(
            turns, places, memory.states_BSD,
            Places(query_segments_BT=segments, key_segments_BS=theirs),
        )
