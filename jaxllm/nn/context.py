"""Context parallelism: which tokens of a row each device along `context` holds.

Under a causal mask later tokens have more keys. Cut in order, the device with the last part of the
rows would do nearly twice its share of the attention. So rows are cut into twice as many chunks as
there are devices, and each holds one from the front and its mirror image from the back (Dubey et
al. 2024, Llama 3, section 3.3.2). The tokens are put into that order once, before the model:
positions and segments travel with them, a loss is a sum, and only masks and biases must know the
tokens' true places.

Shapes: B batch, T tokens, c chunks of C tokens.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.mesh import Sharding


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Order:
    """The order of rows shared by `parts` devices: a front and a back chunk for each.

    It is static, and a pytree without arrays: it may stand among a call's inputs.
    """

    parts: int

    def places(self, length: int) -> np.ndarray:
        """The true place of each token of a row in this order, int32 [T]."""
        chunks = np.arange(length, dtype=np.int32).reshape(2 * self.parts, -1)
        return chunks[self._chunks()].reshape(-1)

    def arrange(self, rows: Any, sharding: Sharding) -> Any:
        """Arrays [B, T, …] put into this order."""
        def one(x_BT: jax.Array) -> jax.Array:
            x_BcC = x_BT.reshape(x_BT.shape[0], 2 * self.parts, -1)
            x_BT = jnp.take(x_BcC, self._chunks(), axis=1).reshape(x_BT.shape)
            return sharding.constrain(x_BT, "batch", "sequence", *(None,) * (x_BT.ndim - 2))

        return jax.tree.map(one, rows)

    def restore(self, x_BTKH: jax.Array) -> jax.Array:
        """Whole rows on a device, put back from this order into the true one; [B, T, …]."""
        x_BcC = x_BTKH.reshape(x_BTKH.shape[0], 2 * self.parts, -1, *x_BTKH.shape[2:])
        back = jnp.take(x_BcC, np.argsort(self._chunks()), axis=1)
        return back.reshape(x_BTKH.shape)

    def _chunks(self) -> np.ndarray:
        """The chunk at each place: 0, c - 1, 1, c - 2, …"""
        front = np.arange(self.parts)
        return np.stack([front, 2 * self.parts - 1 - front], axis=1).reshape(-1)


def balanced(sharding: Sharding, length: int) -> Order | None:
    """The order for rows of `length` tokens under a causal mask; None where there is none to have.

    That is without `mesh.context`, and where the length is not so many times two chunks.
    """
    parts = sharding.parts("sequence")
    return None if parts == 1 or length % (2 * parts) else Order(parts)
