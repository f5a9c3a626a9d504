"""One layer of a tower: attention, attention to an encoder where there is one, and the MLP.

Shapes: B batch, T tokens, S keys, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name

from jaxllm.models.config import ModelConfig
from jaxllm.nn import stream
from jaxllm.nn.attention import Attention, Cache, CacheSlots, CrossAttention
from jaxllm.nn.compute import Compute
from jaxllm.nn.kernels.attention import Places
from jaxllm.nn.layers import dropout, residual_stddev
from jaxllm.nn.mlp import Mlp
from jaxllm.nn.module import Module
from jaxllm.nn.norms import make_norm
from jaxllm.nn.positions import Rotation


class Context(NamedTuple):
    """What all layers of a call share."""

    rotations: dict[str, Rotation] | None  # by kind of layer
    places: Places  # of queries and keys in self-attention
    memory_BSD: jax.Array | None = None  # the encoder's output
    memory_places: Places | None = None


class Block(Module):
    """x + f(norm(x)) for each sublayer f, or what `norm.placement` makes of it."""

    def __init__(
        self, key: jax.Array, config: ModelConfig, compute: Compute, *, causal: bool, cross: bool
    ):
        keys = jax.random.split(key, 9)
        init, norm, width = config.init, config.norm, config.width
        attention = (compute, width, config.attention, norm)

        def stddevs(inputs: int) -> dict[str, float]:
            inner = init.of_matrix(inputs)
            return {
                "stddev": init.of_matrix(width),
                "output_stddev": residual_stddev(inner, config.layers, init.scale_residual),
            }

        projections = stddevs(config.attention.heads * config.attention.head_dim)
        projections["query_stddev"] = init.of_query(width, config.attention)

        def norm_at(key, exists=True):
            return make_norm(key, compute, width, norm) if exists else None

        sandwich, parallel = norm.placement == "sandwich", config.parallel_residual
        self.attention_norm = norm_at(keys[0])
        self.attention = Attention(keys[1], *attention, **projections, causal=causal)
        self.attention_output_norm = norm_at(keys[2], sandwich)
        self.cross_norm = norm_at(keys[3], cross)
        self.cross = CrossAttention(keys[4], *attention, **projections) if cross else None
        self.cross_output_norm = norm_at(keys[5], cross and sandwich)
        self.mlp_norm = norm_at(keys[6], not parallel)
        self.mlp = Mlp(keys[7], compute, width, config.mlp, **stddevs(config.mlp.width))
        self.mlp_output_norm = norm_at(keys[8], sandwich)
        self.placement, self.parallel = norm.placement, parallel
        self.pattern, self.dropout, self.compute = (
            config.attention.pattern, config.dropout, compute
        )

    def __call__(
        self, x_BTD: jax.Array, place: int, context: Context, key: jax.Array | None = None,
        slots: CacheSlots | None = None, memory: tuple[jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """The stream after this layer [B, T, D], and the cache with this call's keys and values.

        `place` is the layer's in the repeating pattern; `memory` holds the keys and values of the
        encoder's output where they are known already.
        """
        x_BTD = checkpoint_name(x_BTD, "input")  # for remat policies that keep it on the host
        keys = (None,) * 7 if key is None else jax.random.split(key, 7)
        kind = self.pattern[place % len(self.pattern)]
        rotation = None if context.rotations is None else context.rotations[kind]
        cache = None

        def attention(y_BTD):
            nonlocal cache
            out, cache = self.attention(y_BTD, kind, rotation, context.places, keys[0], slots)
            return out

        def cross(y_BTD):
            sides = memory or self.cross.project_key_value(context.memory_BSD, keys[2])
            return self.cross(y_BTD, sides, context.memory_places, keys[2])

        if self.parallel:  # both read the same normalised stream (GPT-J, Phi)
            y_BTD = stream.gather(self.attention_norm(x_BTD), self.compute)
            for out, at in ((attention(y_BTD), 1), (self.mlp(y_BTD, keys[5]), 4)):
                out = stream.scatter(out, self.compute)
                x_BTD = x_BTD + dropout(out, self.dropout, keys[at])
            return stream.pin(x_BTD, self.compute), cache
        x_BTD = self._sublayer("attention", attention, x_BTD, keys[1])
        if self.cross is not None:
            x_BTD = self._sublayer("cross", cross, x_BTD, keys[3])
        return self._sublayer("mlp", lambda y: self.mlp(y, keys[5]), x_BTD, keys[4]), cache

    def _sublayer(
        self, name: str, run: Callable, x_BTD: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        norm = getattr(self, f"{name}_norm")
        before = self.placement in ("pre", "sandwich")
        y_BTD = run(stream.gather(norm(x_BTD) if before else x_BTD, self.compute))
        y_BTD = stream.scatter(y_BTD, self.compute)
        if self.placement == "output":
            y_BTD = norm(y_BTD)
        elif self.placement == "sandwich":
            y_BTD = getattr(self, f"{name}_output_norm")(y_BTD)
        total = x_BTD + dropout(y_BTD, self.dropout, key)
        return stream.pin(norm(total) if self.placement == "post" else total, self.compute)
