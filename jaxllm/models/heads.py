"""Heads: from hidden states to scores of the vocabulary, of classes, or to one vector a text.

Shapes: B batch, T tokens, D width, V vocabulary, C classes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxllm.core.errors import unknown
from jaxllm.models.config import LANGUAGE_HEADS, ModelConfig
from jaxllm.nn.compute import Compute
from jaxllm.nn.layers import Linear, dropout
from jaxllm.nn.mlp import ACTIVATIONS
from jaxllm.nn.module import Module, parameter, zeros
from jaxllm.nn.norms import make_norm


class LanguageHead(Module):
    """Scores of the vocabulary; a masked LM transforms the hidden states first (BERT)."""

    def __init__(self, key: jax.Array, config: ModelConfig, compute: Compute):
        keys = jax.random.split(key, 3)
        width, stddev = config.width, config.init.of_matrix(config.width)
        masked = config.head.kind == "masked_lm"
        if config.head.activation and config.head.activation not in ACTIVATIONS:
            raise unknown("model.head.activation", config.head.activation, ACTIVATIONS)
        self.dense = (
            Linear(keys[0], compute, {"embed": width}, {"dense": width}, stddev=stddev, bias=True)
            if masked else None
        )
        self.norm = make_norm(keys[1], compute, width, config.norm) if masked else None
        sizes = {"embed": width}, {"vocab": config.vocab_size}
        self.output = None if config.tied else Linear(keys[2], compute, *sizes, stddev=stddev)
        self.bias = (
            parameter(keys[2], (config.vocab_size,), ("vocab",), zeros, compute.param_dtype)
            if config.head.bias else None
        )
        self.config = config

    def features(self, hidden_BTD: jax.Array) -> jax.Array:
        """What the output projection is applied to, [B, T, D]."""
        if self.dense is not None:
            activate = ACTIVATIONS[self.config.head.activation or self.config.mlp.activation]
            hidden_BTD = self.norm(activate(self.dense(hidden_BTD)))
        if self.config.head.scaled:
            hidden_BTD = hidden_BTD * jnp.asarray(self.config.width**-0.5, hidden_BTD.dtype)
        return hidden_BTD


class TextHead(Module):
    """Scores of classes, a reward, or an embedding, from the hidden states of a text."""

    def __init__(self, key: jax.Array, config: ModelConfig, compute: Compute):
        head, width = config.head, config.width
        if head.pooling not in POOLINGS:
            raise unknown("model.head.pooling", head.pooling, POOLINGS)
        keys, stddev = jax.random.split(key), config.init.of_matrix(config.width)
        self.dense = (
            Linear(keys[0], compute, {"embed": width}, {"dense": width}, stddev=stddev, bias=True)
            if head.dense else None
        )
        self.output = (
            None if head.kind == "embedding" else
            Linear(
                keys[1], compute, {"embed": width}, {"label": head.labels}, stddev=stddev,
                bias=head.classifier_bias,
            )
        )
        self.config = head

    def __call__(
        self, hidden_BTD: jax.Array, segments_BT: jax.Array | None, key: jax.Array | None = None
    ) -> jax.Array:
        """Float32 [B, C], [B] for a reward, [B, T, C] for each token's class, [B, D] embedded.

        `segments_BT` is 0 at padding; `key` switches on dropout.
        """
        if segments_BT is None:
            segments_BT = jnp.ones(hidden_BTD.shape[:2], jnp.int32)
        pooled = POOLINGS[self.config.pooling](hidden_BTD, segments_BT != 0)
        if self.dense is not None:
            pooled = jnp.tanh(self.dense(pooled))
        if self.output is None:
            return pooled.astype(jnp.float32)
        scores = self.output(dropout(pooled, self.config.dropout, key)).astype(jnp.float32)
        return scores[..., 0] if self.config.kind == "reward" else scores


def _first(hidden_BTD, real_BT):
    return hidden_BTD[:, 0]


def _last(hidden_BTD, real_BT):
    places = jnp.where(real_BT, jnp.arange(real_BT.shape[1]), 0)
    return jnp.take_along_axis(hidden_BTD, jnp.max(places, 1)[:, None, None], axis=1)[:, 0]


def _mean(hidden_BTD, real_BT):
    weights_BT1 = real_BT[..., None].astype(jnp.float32)
    total = jnp.sum(hidden_BTD.astype(jnp.float32) * weights_BT1, axis=1)
    return (total / jnp.maximum(jnp.sum(weights_BT1, axis=1), 1.0)).astype(hidden_BTD.dtype)


def _none(hidden_BTD, real_BT):
    return hidden_BTD


POOLINGS = {"first": _first, "last": _last, "mean": _mean, "none": _none}


def make_head(key: jax.Array, config: ModelConfig, compute: Compute) -> LanguageHead | TextHead:
    """The head named by `config.head.kind`."""
    kind = LanguageHead if config.head.kind in LANGUAGE_HEADS else TextHead
    return kind(key, config, compute)
