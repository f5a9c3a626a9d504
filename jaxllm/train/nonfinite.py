"""Where a non-finite loss came from, and the batch that showed it."""

from __future__ import annotations

import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.paths import atomic_write_bytes
from jaxllm.core.rundir import RunDirectory
from jaxllm.data.batch import Batch
from jaxllm.models.transformer import Transformer, inputs_of
from jaxllm.nn.module import Params, bind
from jaxllm.train.losses import LossOptions
from jaxllm.train.scores import Fixed, Loss
from jaxllm.train.state import Setup, TrainState
from jaxllm.train.step import batch_loss, microbatches


def explain(
    setup: Setup, options: LossOptions, state: TrainState, batch: Batch, key: jax.Array,
    accumulation: int, loss: Loss,
) -> str:
    """A sentence on the first place where the forward or backward pass is not finite.

    `loss` is what the step minimises.
    """
    try:
        return _explain(setup, options, state, batch, key, accumulation, loss)
    except Exception as error:  # out of memory, say: the run still has a batch to report
        return f"The place could not be found ({type(error).__name__})."


def _explain(setup, options, state, batch, key, accumulation, loss) -> str:
    replicated = setup.compute.sharding.replicated()

    def layers(state: TrainState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Whether the stream is finite after the embedding and after each layer, [L + 1]."""
        model: Transformer = bind(setup.structure, state.whole())

        def finite(x: jax.Array) -> jax.Array:
            return jnp.all(jnp.isfinite(x))

        return model.traced(inputs_of(batch), key, every_layer=finite)[1]

    def gradients(state: TrainState, batch: Batch, key: jax.Array) -> tuple[Any, Any, Params]:
        """Whether the targets' loss, what is minimised and its gradients are finite."""
        fixed = Fixed(state.frozen, state.teacher, state.reference)
        plain = batch_loss(setup, options, state.whole(), batch, key).loss
        value, grads = jax.value_and_grad(lambda params: loss(params, fixed, batch, key).loss)(
            state.params
        )
        return jnp.isfinite(plain), jnp.isfinite(value), _all_finite(grads)

    def over_microbatches(check):
        def run(state: TrainState, batch: Batch, key: jax.Array):
            if accumulation == 1:
                return check(state, batch, key)
            micro = (microbatches(batch, accumulation), jax.random.split(key, accumulation))
            found = jax.lax.map(lambda one: check(state, *one), micro)
            return jax.tree.map(lambda ok: jnp.all(ok, axis=0), found)

        return jax.device_get(jax.jit(run, out_shardings=replicated)(state, batch, key))

    finite = jax.jit(_all_finite, out_shardings=replicated)(state.whole())
    if bad := _first_bad(jax.device_get(finite)):
        return f"The parameter {bad} itself is not finite."
    for tower, finite_layers in over_microbatches(layers).items():
        if not finite_layers.all():
            first = int(np.argmin(finite_layers))
            place = "the embedding" if first == 0 else f"layer {first - 1} (counted from 0)"
            where = f" of the {tower}" if setup.model.architecture == "encoder_decoder" else ""
            return f"The output of {place}{where} is the first that is not finite."
    finite_loss, finite_minimised, finite_gradients = over_microbatches(gradients)
    if not finite_loss:
        return "Every layer's output is finite; the loss itself is not."
    if not finite_minimised:
        return (
            "The loss of the targets is finite; what tune.robust or tune.distillation makes of it "
            "is not."
        )
    if bad := _first_bad(finite_gradients):
        return f"The loss is finite; the gradient of {bad} is not."
    return "Repeated alone, the step is finite: suspect the hardware, or an overflow of the norm."


def keep_batch(run: RunDirectory, step: int, batch: Batch) -> str:
    """Saves this host's rows of the batch as `nonfinite_step_N.npz`; gives the file's name."""
    buffer = io.BytesIO()
    fields = {name: x for name, x in batch._asdict().items() if x is not None}
    np.savez(buffer, **{name: np.asarray(x) for name, x in fields.items()})
    host = f"_host_{jax.process_index()}" if jax.process_count() > 1 else ""
    target = run.root / f"nonfinite_step_{step}{host}.npz"
    atomic_write_bytes(target, buffer.getvalue())
    return str(target)


def _all_finite(tree: Params) -> Params:
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), tree)


def _first_bad(finite: Params) -> str | None:
    """The dotted path of the first leaf that is False."""
    for path, ok in jax.tree_util.tree_leaves_with_path(finite):
        if not ok:
            return ".".join(key.key for key in path)
    return None
