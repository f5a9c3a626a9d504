"""Cross-entropy over the vocabulary without the [batch, length, vocabulary] logits.

Where each device has the whole output projection, the tokens are cut into chunks and nothing is
computed twice (`loss_chunks.py`). Where FSDP cuts it, the vocabulary is cut into blocks too, so
that neither the projection nor its gradient is ever whole on a device (`loss_blocks.py`); where the
sequence is cut, that way shares its tokens too.

Shapes: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.nn.compute import Compute
from jaxllm.train.loss_blocks import blocked_sums
from jaxllm.train.loss_chunks import chunked_sums


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """What is added to the negative log-likelihood, and how it is computed."""

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    logit_softcap: float = 0.0
    chunk: int = 0  # tokens of each row whose logits exist at once; 0: by the device
    block: int = 0  # columns of the vocabulary, where FSDP cuts it; 0: by the device
    # At most so many tokens of a row have a weight: no others are scored. 0: all are.
    targets_per_row: int = 0
    accuracy: bool = False  # count right guesses too; evaluation does, training need not


class LossSums(NamedTuple):
    """Sums over tokens, float32 scalars; divide by `weight` once everything is added up."""

    loss: jax.Array  # what is minimised: weighted nll with z-loss and label smoothing
    nll: jax.Array  # weighted negative log-likelihood, in nats
    correct: jax.Array  # weighted right guesses, with `LossOptions.accuracy`; else 0
    weight: jax.Array  # sum of the weights


def cross_entropy(
    hidden_BTD: jax.Array, kernel_DV: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array,
    options: LossOptions, compute: Compute, bias_V: jax.Array | None = None,
) -> LossSums:
    """The loss sums of token prediction; differentiable in hidden states, kernel and bias.

    z-loss: Chowdhery et al. 2022 (PaLM); label smoothing: Szegedy et al. 2016.
    """
    compute = compute.outside(hidden_BTD.shape[0])
    weights_BT = weights_BT.astype(jnp.float32)
    sharded = max(compute.sharding.parts(axis) for axis in ("embed", "sequence")) > 1
    sums = (blocked_sums if sharded else chunked_sums)(
        options, compute, hidden_BTD, kernel_DV, bias_V, targets_BT, weights_BT
    )
    return LossSums(*sums, jnp.sum(weights_BT))


def only_targets(
    options: LossOptions, hidden_BTD: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array,
    parts: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three arrays at the `targets_per_row` places of each row that may have a weight.

    A masked model predicts a seventh of its tokens; the head is then a seventh of the work. The
    number of places is rounded up to what `parts` devices can share.
    """
    count = -(-options.targets_per_row // parts) * parts
    if not 0 < count < hidden_BTD.shape[1]:
        return hidden_BTD, targets_BT, weights_BT
    places = jnp.argsort(weights_BT == 0, axis=1, stable=True)[:, :count]
    hidden_BTD = jnp.take_along_axis(hidden_BTD, places[..., None], axis=1)
    targets_BT, weights_BT = (
        jnp.take_along_axis(x, places, axis=1) for x in (targets_BT, weights_BT)
    )
    return hidden_BTD, targets_BT, weights_BT


def class_cross_entropy(
    scores: jax.Array, targets: jax.Array, weights: jax.Array, options: LossOptions
) -> LossSums:
    """The loss sums of classes: float32 scores [B, C] of texts, or [B, T, C] of tokens.

    `targets` and `weights` are of the same shape without C.
    """
    weights = weights.astype(jnp.float32)
    lse = jax.nn.logsumexp(scores, axis=-1)
    chosen = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
    nll = lse - chosen
    loss = nll + options.z_loss * lse**2
    if options.label_smoothing:
        loss = loss + options.label_smoothing * (chosen - jnp.mean(scores, axis=-1))
    correct = jnp.argmax(scores, axis=-1) == targets
    return LossSums(*(jnp.sum(weights * x) for x in (loss, nll, correct)), jnp.sum(weights))
