"""The pure training and evaluation steps: (state, batch, key) -> (state, metrics)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxllm.data.batch import Batch
from jaxllm.models.load import Model
from jaxllm.nn.module import Params
from jaxllm.train.losses import LossOptions, LossSums
from jaxllm.train.optimizers import clip_factor
from jaxllm.train.scores import Fixed, Loss, loss_of, plain_passes, scores_of
from jaxllm.train.state import Setup, TrainState, fetched, put_back

Metrics = dict[str, jax.Array]  # float32 scalars


def batch_loss(
    setup: Setup | Model, options: LossOptions, params: Params, batch: Batch, key: jax.Array | None
) -> LossSums:
    """The loss sums of one batch; dropout is on when `key` is given."""
    return loss_of(setup, options, scores_of(setup, options, params, batch, key))


def make_train_step(
    setup: Setup, options: LossOptions, accumulation: int = 1, loss: Loss | None = None
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """The step of a run: gradients over `accumulation` microbatches, clipping, one update.

    `loss` is what is minimised, such as `minimised.step_loss` gives; None: the targets' own loss.
    A step whose loss or gradient is not finite leaves the state as it was but for `finite`,
    which stays False: later steps then change nothing either.
    """
    minimised = loss or plain_passes(setup, options)

    def gradients(state: TrainState, batch: Batch, key: jax.Array) -> tuple[LossSums, Params]:
        fixed = Fixed(state.frozen, state.teacher, state.reference)

        def of_params(params: Params):
            sums = minimised(params, fixed, batch, key)
            return sums.loss, sums

        (_, sums), grads = jax.value_and_grad(of_params, has_aux=True)(state.params)
        return sums, _pin(grads)

    def _pin(tree: Params) -> Params:
        return jax.lax.with_sharding_constraint(tree, setup.shardings.params)

    def accumulated(state: TrainState, batch: Batch, key: jax.Array) -> tuple[LossSums, Params]:
        if accumulation == 1:
            return gradients(state, batch, key)
        shapes = jax.eval_shape(gradients, state, batch, key)
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), shapes)

        def body(total, micro):
            return jax.tree.map(jnp.add, total, gradients(state, *micro)), None

        keys = jax.random.split(key, accumulation)
        return jax.lax.scan(body, start, (microbatches(batch, accumulation), keys))[0]

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        sums, grads = accumulated(state, batch, key)
        weight = jnp.maximum(sums.weight, 1.0)
        in_float32 = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
        if setup.l2_to_base:  # the gradient of L2-SP's penalty, as large as `weight` targets'
            in_float32 = jax.tree.map(
                lambda g, p, base: g + weight * setup.l2_to_base * (p - base),
                in_float32, state.params, state.reference,
            )
        loss, grad_norm = sums.loss / weight, optax.tree.norm(in_float32) / weight
        scale = clip_factor(grad_norm, setup.max_grad_norm) / weight
        grads = jax.tree.map(
            lambda g, p: (g * scale).astype(p.dtype), in_float32, state.params
        )
        state = state._replace(opt_state=fetched(state.opt_state, setup))
        updates, opt_state = setup.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        finite = state.finite & jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        new = TrainState(state.step + 1, finite, params, opt_state, {}, {})
        before = state._replace(frozen={}, reference={}, teacher=None)
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, before)
        metrics = {
            "loss": loss, "nll": sums.nll / weight, "grad_norm": grad_norm, "finite": finite,
            "tokens": _tokens(batch), "learning_rate": setup.schedule(state.step),
        }
        opt_state = put_back(new.opt_state, setup)
        return new._replace(finite=finite, opt_state=opt_state).with_constant(state), metrics

    return step


def _tokens(batch: Batch) -> jax.Array:
    """Tokens that the model reads, padding left out; float32."""
    both = ((batch.inputs, batch.segment_ids), (batch.encoder_inputs, batch.encoder_segment_ids))
    counts = [
        ids.size if segments is None else jnp.sum(segments != 0)
        for ids, segments in both if ids is not None
    ]
    return jnp.asarray(sum(counts), jnp.float32)


def make_eval_step(
    setup: Setup | Model, options: LossOptions
) -> Callable[[Params, Batch], LossSums]:
    """The loss sums of a batch without dropout, right guesses counted."""
    options = dataclasses.replace(options, accuracy=True)
    return lambda params, batch: batch_loss(setup, options, params, batch, None)


def jit_train_step(
    setup: Setup, options: LossOptions, accumulation: int, seed: int, loss: Loss | None = None
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`make_train_step` under jit: shardings pinned, the state's memory reused, keys by step."""
    step = make_train_step(setup, options, accumulation, loss)
    return jax.jit(
        lambda state, batch: step(state, batch, step_key(seed, state.step)),
        donate_argnums=0,
        out_shardings=(setup.shardings, setup.compute.sharding.replicated()),
    )


def jit_eval_step(setup: Setup | Model, options: LossOptions) -> Callable:
    """`make_eval_step` compiled for the run's shardings."""
    return jax.jit(
        make_eval_step(setup, options), out_shardings=setup.compute.sharding.replicated()
    )


def step_key(seed: int, step: jax.Array | int) -> jax.Array:
    """The random key of update `step` (counted from 0): a pure function of (seed, step)."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), step)


def microbatches(batch: Batch, count: int) -> Batch:
    """[B, …] as [count, B / count, …], every microbatch spread over all devices."""
    def cut(x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(cut, batch)
