"""The one Transformer: every family is a configuration of it.

Shapes: B batch, T tokens, S encoder tokens or cache slots, L layers, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.data.batch import Batch
from jaxllm.models.adapters.attach import attach
from jaxllm.models.config import ModelConfig
from jaxllm.models.heads import make_head
from jaxllm.models.tower import Inputs, Memory, Tower
from jaxllm.nn.attention import Cache
from jaxllm.nn.compute import Compute
from jaxllm.nn.layers import Embedding
from jaxllm.nn.module import Module


class Transformer(Module):
    """A decoder, an encoder, or both: token ids in, hidden states, logits or classes out."""

    def __init__(self, key: jax.Array, config: ModelConfig, compute: Compute):
        keys = jax.random.split(key, 4)
        self.embedding = Embedding(
            keys[0], compute, config.vocab_size, config.width, stddev=config.init.stddev
        )
        both = config.architecture == "encoder_decoder"
        self.encoder = (
            Tower(keys[1], config.encoder_config(), compute, causal=False, cross=False)
            if config.architecture != "decoder" else None
        )
        self.decoder = (
            Tower(keys[2], config, compute, causal=True, cross=both)
            if config.architecture != "encoder" else None
        )
        self.head = make_head(keys[3], config, compute)
        self.config, self.compute = config, compute
        attach(self, config, jax.random.fold_in(key, 1))

    def hidden(self, inputs: Inputs, key: jax.Array | None = None) -> jax.Array:
        """Normalised hidden states [B, T, D]; dropout is on when `key` is given."""
        return self.traced(inputs, key)[0]

    def traced(
        self, inputs: Inputs, key: jax.Array | None = None,
        every_layer: Callable[[jax.Array], Any] | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Hidden states, and for each tower what `every_layer` gives after each of its layers.

        It is applied to the residual stream after the embedding and after each layer, and what it
        gives is stacked, [L + 1, …].
        """
        keys = (None, None) if key is None else jax.random.split(key)
        memory, seen = None, {}
        if self.encoder is not None:
            own = inputs.encoder if self.decoder is not None else inputs
            y_BTD, seen["encoder"] = self.encoder(
                self.embedding(own.ids), own, keys[0], every_layer=every_layer
            )
            memory = Memory(y_BTD, own.segments)
        if self.decoder is not None:
            y_BTD, seen["decoder"] = self.decoder(
                self.embedding(inputs.ids), inputs, keys[1], memory, every_layer
            )
        return y_BTD, seen

    def encode(self, inputs: Inputs) -> Memory:
        """The encoder's output for its own tokens."""
        return Memory(self.encoder(self.embedding(inputs.ids), inputs)[0], inputs.segments)

    def decode(
        self, inputs: Inputs, cache: Cache, memory: Memory | None = None,
        memory_cache: Cache | None = None,
    ) -> tuple[jax.Array, Cache]:
        """Hidden states [B, T, D] of tokens at their positions, and the cache with them in it.

        An encoder-decoder needs `memory`, and `memory_cache` as `decoder.memory_cache` gives it.
        """
        x_BTD = self.embedding(inputs.ids)
        return self.decoder.decode(x_BTD, inputs, cache, memory, memory_cache)

    def features(self, hidden_BTD: jax.Array) -> jax.Array:
        """What the output projection is applied to: the head's transform of hidden states."""
        return self.head.features(hidden_BTD)

    def head_kernel(self) -> jax.Array:
        """The output projection [D, V] in the parameters' dtype."""
        output = self.head.output
        return self.embedding.as_head() if output is None else output.kernel[...]

    def head_bias(self) -> jax.Array | None:
        """The output projection's bias [V], if it has one."""
        return None if self.head.bias is None else self.head.bias[...]

    def logits(self, hidden_BTD: jax.Array) -> jax.Array:
        """Scores of the vocabulary, float32 [B, T, V]."""
        x_BTD, kernel = self.features(hidden_BTD), self.head_kernel()
        logits = jnp.einsum(
            "btd,dv->btv", x_BTD, kernel.astype(x_BTD.dtype), preferred_element_type=jnp.float32
        )
        if (bias := self.head_bias()) is not None:
            logits = logits + bias.astype(jnp.float32)
        logits = softcap(logits, self.config.logit_softcap)
        return self.compute.constrain(logits, "batch", "sequence", "act_vocab")

    def text_outputs(self, inputs: Inputs, key: jax.Array | None = None) -> jax.Array:
        """What a classification, reward or embedding head makes of the texts, float32."""
        keys = (None, None) if key is None else jax.random.split(key)
        return self.head(self.hidden(inputs, keys[0]), inputs.segments, keys[1])


def inputs_of(batch: Batch) -> Inputs:
    """The model's part of a batch."""
    encoder = None
    if batch.encoder_inputs is not None:
        encoder = Inputs(
            batch.encoder_inputs, batch.encoder_positions, batch.encoder_segment_ids
        )
    return Inputs(
        batch.inputs, batch.positions, batch.segment_ids, batch.prefix, encoder=encoder
    )


def softcap(logits: jax.Array, cap: float) -> jax.Array:
    """cap · tanh(logits / cap), or the logits when `cap` is 0 (Gemma 2)."""
    return cap * jnp.tanh(logits / cap) if cap else logits
