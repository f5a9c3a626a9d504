"""What a model makes of a batch, and the loss made of that: the halves of a step's forward pass.

Whatever compares the outputs of two passes (R-Drop, SMART, a teacher) or moves the embedded tokens
(NEFTune, FreeLB) works on these halves, for heads that score the vocabulary and for those that
score classes.

Shapes: B batch, T tokens, S encoder tokens, D width, V vocabulary, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from jaxllm.data.batch import Batch
from jaxllm.models.config import LANGUAGE_HEADS, ModelConfig
from jaxllm.models.saved import Model
from jaxllm.models.transformer import Transformer, inputs_of
from jaxllm.nn.compute import Compute
from jaxllm.nn.context import balanced
from jaxllm.nn.module import Params, bind
from jaxllm.train.losses import (
    LossOptions,
    LossSums,
    class_cross_entropy,
    cross_entropy,
    only_targets,
)
from jaxllm.train.state import Setup, merged


class Noise(NamedTuple):
    """What is added to embedded tokens, float32; None: nothing."""

    own: jax.Array | None = None  # [B, T, D], of the decoder or of the only tower
    encoder: jax.Array | None = None  # [B, S, D], of an encoder-decoder's encoder


class Scores(NamedTuple):
    """The outputs of a pass at the places that are scored."""

    # [B, T, D] that `kernel` is applied to; without a kernel scores of classes, [B, C] or [B, T, C]
    values: jax.Array
    targets: jax.Array  # as the batch's, in the order of `values`
    weights: jax.Array
    kernel: jax.Array | None = None  # [D, V]
    bias: jax.Array | None = None  # [V]
    teacher_ids: jax.Array | None = None  # as the batch's
    teacher_logprobs: jax.Array | None = None


class Fixed(NamedTuple):
    """Parameters that a pass reads and no step trains."""

    frozen: Params | None = None  # of the model itself
    teacher: Params | None = None  # of distillation
    anchor: Params | None = None  # of the model before the run, those that train: SMART's


ScoresOf = Callable[[Params, Fixed, Batch, jax.Array, Noise | None], Scores]
LossOf = Callable[[Scores, Fixed, Batch], LossSums]
Loss = Callable[[Params, Fixed, Batch, jax.Array], LossSums]


@dataclass(frozen=True)
class Passes:
    """The forward pass of a run's step in its two halves."""

    model: ModelConfig
    compute: Compute
    options: LossOptions
    scores: ScoresOf
    loss: LossOf

    def __call__(
        self, params: Params, fixed: Fixed, batch: Batch, key: jax.Array, noise: Noise | None = None
    ) -> LossSums:
        """The loss sums of a batch; dropout is on where the model has any."""
        return self.loss(self.scores(params, fixed, batch, key, noise), fixed, batch)


def plain_passes(setup: Setup, options: LossOptions) -> Passes:
    """The passes of a run that is trained on its targets and nothing else."""
    on = drops(setup.model)

    def scores(params, fixed, batch, key, noise):
        whole = merged(params, fixed.frozen or {})
        return scores_of(setup, options, whole, batch, key if on else None, noise)

    def loss(found, fixed, batch):
        return loss_of(setup, options, found)

    return Passes(setup.model, setup.compute, options, scores, loss)


def drops(model: ModelConfig) -> bool:
    """Whether the model has any dropout."""
    rates = (
        model.dropout, model.embedding.dropout, model.attention.dropout, model.mlp.dropout,
        model.head.dropout, model.adapter.lora.lora_dropout,
    )
    return max(rates) > 0


def scores_of(
    setup: Setup | Model, options: LossOptions, params: Params, batch: Batch,
    key: jax.Array | None, noise: Noise | None = None,
) -> Scores:
    """The model's outputs for one batch; dropout is on when `key` is given."""
    model: Transformer = bind(setup.structure, params)
    noise = noise or Noise()
    if model.config.head.kind not in LANGUAGE_HEADS:
        scores = model.text_outputs(_inputs(batch, noise), key)
        targets, weights = batch.targets, batch.weights
        if scores.ndim == 2:  # a text's class is the target at its first place
            targets, weights = targets[:, 0], weights[:, 0]
        return Scores(scores, targets, weights)
    sharding, order = setup.compute.sharding, None
    if model.decoder is not None:
        order = balanced(sharding, batch.inputs.shape[1])
    if order is not None:  # the encoder's rows stay: without a causal mask their order is as good
        ours = {name: x for name, x in batch._asdict().items() if not name.startswith("encoder_")}
        batch = batch._replace(**order.arrange(ours, sharding))
        noise = noise._replace(own=order.arrange(noise.own, sharding))
    hidden = model.hidden(_inputs(batch, noise)._replace(order=order), key)

    def scored(x: jax.Array | None) -> Any:
        if x is None:
            return None, batch.targets, batch.weights
        parts = sharding.parts("sequence")
        return only_targets(options, x, batch.targets, batch.weights, parts)

    hidden, targets, weights = scored(hidden)
    return Scores(
        model.features(hidden), targets, weights, model.head_kernel(), model.head_bias(),
        scored(batch.teacher_ids)[0], scored(batch.teacher_logprobs)[0],
    )


def loss_of(setup: Setup | Model, options: LossOptions, scores: Scores) -> LossSums:
    """The loss sums of outputs against their targets."""
    if scores.kernel is None:
        return class_cross_entropy(scores.values, scores.targets, scores.weights, options)
    return cross_entropy(
        scores.values, scores.kernel, scores.targets, scores.weights, options, setup.compute,
        scores.bias,
    )


def _inputs(batch: Batch, noise: Noise) -> Any:
    """The model's part of a batch, with what is added to its embedded tokens."""
    inputs = inputs_of(batch)._replace(noise=noise.own)
    if noise.encoder is not None:
        inputs = inputs._replace(encoder=inputs.encoder._replace(noise=noise.encoder))
    return inputs
