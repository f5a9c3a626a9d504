"""From host rows to device arrays: each host places the rows that its devices hold."""

from __future__ import annotations

import jax
import numpy as np

from jaxllm.core.mesh import Sharding
from jaxllm.data.batch import Batch

BATCH_AXES = ("batch", "sequence")  # of every array of a batch, the encoder's too


def local_rows(sharding: Sharding, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this host's devices hold, ascending."""
    indices = sharding.named(("batch",)).addressable_devices_indices_map((batch_size,))
    return np.unique(np.concatenate([np.arange(batch_size)[i] for i in indices.values()]))


def place(batch: Batch, sharding: Sharding, rows: np.ndarray, batch_size: int) -> Batch:
    """The global device batch of which this host gives `rows` (arrays [len(rows), T])."""
    named = sharding.named(BATCH_AXES)
    if named.is_fully_addressable:
        return jax.device_put(batch, named)
    position = {int(row): i for i, row in enumerate(rows)}

    def globally(local: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            wanted = range(*index[0].indices(batch_size))
            return local[[position[row] for row in wanted]][:, index[1]]

        return jax.make_array_from_callback((batch_size, *local.shape[1:]), named, part)

    return jax.tree.map(globally, batch)


def batch_shapes(batch: Batch, sharding: Sharding, batch_size: int) -> Batch:
    """ShapeDtypeStructs of the global batch whose host rows look like `batch`."""
    named = sharding.named(BATCH_AXES)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype, sharding=named), batch
    )
