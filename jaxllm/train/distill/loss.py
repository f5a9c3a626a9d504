"""Distillation as a loss: how far the student's predictions are from the teacher's, token by token.

The teacher is a model evaluated in the same step, or what was kept of one (`cache.py`).

Shapes: K likeliest tokens of the teacher, V vocabulary.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp

from jaxllm.core.errors import UserError
from jaxllm.models.load import find_model
from jaxllm.models.parameters import check_divisible
from jaxllm.models.saved import Model, abstract_params
from jaxllm.models.transformer import Transformer
from jaxllm.nn.compute import Compute
from jaxllm.nn.module import Params, abstract
from jaxllm.train.distill.config import DistillationConfig
from jaxllm.train.divergence import jsd, weighted_sum
from jaxllm.train.losses import LossSums
from jaxllm.train.scores import Fixed, Passes, Scores, scores_of

LEAST = 1e-9  # probability of what is not among the likeliest: rounding must not make it negative


def distilled(config: DistillationConfig, passes: Passes, teacher: Model | None = None) -> Passes:
    """The passes of a student. Its loss is weight · D + (1 - weight) · the loss of `passes`.

    Of `teacher` only what is static is read: its parameters are `Fixed.teacher`. Without one the
    batch has the likeliest tokens (`teacher_ids`, `teacher_logprobs`).

    Raises:
      UserError: a teacher that cannot be compared with the student.
    """
    if not config.weight:
        return passes
    if teacher is not None:
        _check(passes, teacher)
        teacher = dataclasses.replace(teacher, params={})

    def divergence(scores: Scores, fixed: Fixed, batch) -> jax.Array:
        if teacher is None:
            measure = partial(from_likeliest, config)
            return weighted_sum(
                measure, [(scores, passes.options)], passes.compute,
                (scores.teacher_ids, scores.teacher_logprobs),
            )
        options = dataclasses.replace(
            passes.options, logit_softcap=teacher.config.logit_softcap
        )
        theirs = jax.lax.stop_gradient(scores_of(teacher, options, fixed.teacher, batch, None))
        sides = (scores, passes.options), (theirs, options)
        return weighted_sum(partial(from_logits, config), sides, passes.compute)

    def loss(scores: Scores, fixed: Fixed, batch) -> LossSums:
        share = config.weight
        # with no part in the loss, the targets' own is only for reading
        read = jax.lax.stop_gradient(scores) if share == 1 else scores
        sums = passes.loss(read, fixed, batch)
        total = share * divergence(scores, fixed, batch)
        return sums._replace(loss=total if share == 1 else total + (1 - share) * sums.loss)

    return dataclasses.replace(passes, loss=loss)


def from_logits(
    config: DistillationConfig, student: jax.Array, teacher: jax.Array
) -> jax.Array:
    """The divergence at every place, [...] of logits [..., V]."""
    student, teacher = (jax.nn.log_softmax(x / config.temperature) for x in (student, teacher))
    return jsd(student, teacher, config.beta)


def from_likeliest(
    config: DistillationConfig, student: jax.Array, ids_K: jax.Array, logprobs_K: jax.Array
) -> jax.Array:
    """The same from the teacher's likeliest tokens and all others together as one.

    It is at most the divergence over the whole vocabulary, and equal to it with K = V. The
    log-probabilities were taken at the same temperature.
    """
    student = jax.nn.log_softmax(student / config.temperature)
    student = jnp.take_along_axis(student, ids_K, axis=-1)
    return jsd(_with_rest(student), _with_rest(logprobs_K), config.beta)


def _with_rest(logprobs: jax.Array) -> jax.Array:
    """The log-probabilities of some tokens, and of all others together at the end."""
    rest = 1.0 - jnp.sum(jnp.exp(logprobs), axis=-1, keepdims=True)
    return jnp.concatenate([logprobs, jnp.log(jnp.maximum(rest, LEAST))], axis=-1)


def _check(passes: Passes, teacher: Model) -> None:
    student, other = passes.model, teacher.config
    if student.architecture != other.architecture or student.head.kind != other.head.kind:
        raise UserError(
            f"tune.distillation.teacher is a {other.architecture} with model.head.kind="
            f"{other.head.kind!r}, and the student a {student.architecture} with "
            f"{student.head.kind!r}: they predict different things. Choose a teacher of the same "
            "kind, or let it write rows (`jaxllm distill --model=TEACHER --prompts=FILE`)."
        )
    if student.head.labels != other.head.labels:
        raise UserError(
            f"tune.distillation.teacher tells {other.head.labels} classes apart, and the student "
            f"{student.head.labels}. Train the teacher on the same labels."
        )


def teacher_shapes(name: str, compute: Compute) -> Model:
    """The teacher of this name with the shapes and places of its parameters, nothing read yet.

    Raises:
      UserError: there is no such model, or the mesh cannot cut it.
    """
    with naming_teacher(name):
        config = find_model(name).config
        structure, specs = abstract(partial(Transformer, config=config, compute=compute))
        check_divisible(specs, compute.sharding)
    return Model(config, compute, structure, abstract_params(specs, compute), 0)


def load_teacher(
    name: str, compute: Compute, tokenizer_hash: str, warn: Callable[[str], None]
) -> Params:
    """The teacher's parameters in their shards.

    Raises:
      UserError: there is no such model, or it has another tokenizer than the data.
    """
    with naming_teacher(name):
        saved = find_model(name)
        check_tokenizer(name, saved.load_tokenizer().hash, tokenizer_hash)
        return saved.load(compute, warn).params


@contextlib.contextmanager
def naming_teacher(name: str) -> Iterator[None]:
    """Says in errors about a model that it is the teacher."""
    try:
        yield
    except UserError as error:
        text = str(error).replace(f"model={name!r}", f"tune.distillation.teacher={name!r}")
        raise UserError(text) from error


def check_tokenizer(teacher: str, theirs: str, ours: str) -> None:
    """Refuses a teacher whose ids mean other text; hashes of its tokenizer and the data's.

    Raises:
      UserError: they differ.
    """
    if theirs != ours:
        raise UserError(
            f"tune.distillation.teacher={teacher!r} has another tokenizer ({theirs[:12]}) than the "
            f"data ({ours[:12]}): their ids mean different text. Prepare the data with the "
            "teacher's tokenizer, or let it write rows (`jaxllm distill --model=TEACHER "
            "--prompts=FILE`)."
        )
