"""Where a non-finite loss came from, and the batch that showed it."""

from __future__ import annotations

import io

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.paths import atomic_write_bytes
from jaxllm.core.rundir import RunDirectory
from jaxllm.data.batch import Batch
from jaxllm.models.transformer import Transformer
from jaxllm.nn.module import Params, bind
from jaxllm.train.losses import LossOptions
from jaxllm.train.state import Setup
from jaxllm.train.step import batch_loss


def explain(
    setup: Setup, options: LossOptions, params: Params, batch: Batch, key: jax.Array
) -> str:
    """A sentence on the first place where the forward or backward pass is not finite."""
    bad = [
        ".".join(k.key for k in path)
        for path, ok in jax.tree_util.tree_leaves_with_path(_all_finite(params)) if not ok
    ]
    if bad:
        return f"The parameter {bad[0]} itself is not finite."

    @jax.jit
    def forward(params: Params, batch: Batch):
        model: Transformer = bind(setup.structure, params)
        outputs = model.hidden(
            batch.inputs, batch.positions, batch.segment_ids, key, every_layer=True
        )
        counted = (batch.weights != 0)[None, ..., None]
        return jnp.all(jnp.where(counted, jnp.isfinite(outputs), True), axis=(1, 2, 3))

    layers = np.asarray(forward(params, batch))
    if not layers.all():
        first = int(np.argmin(layers))
        place = "the embedding" if first == 0 else f"layer {first - 1} (counted from 0)"
        return f"The output of {place} is the first that is not finite."

    loss, grads = jax.jit(jax.value_and_grad(
        lambda p: batch_loss(setup, options, p, batch, key).loss
    ))(params)
    if not np.isfinite(loss):
        return "Every layer's output is finite; the loss itself is not."
    bad = [
        ".".join(k.key for k in path)
        for path, ok in jax.tree_util.tree_leaves_with_path(_all_finite(grads)) if not ok
    ]
    if bad:
        return f"The loss is finite; the gradient of {bad[0]} is not."
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


@jax.jit
def _all_finite(tree: Params) -> Params:
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), tree)
