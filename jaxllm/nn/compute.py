"""How a model is executed, apart from what it computes: dtypes, sharding, kernels, memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.errors import unknown
from jaxllm.core.mesh import Sharding, single_device

policies = jax.checkpoint_policies

# What the backward pass finds saved of a layer, besides its input; the rest it computes again.
REMAT_SAVES = {
    "full": (),
    "attention": ("attention",),  # its output
    "kv": ("attention", "key", "value"),
    "projections": ("attention", "key", "value", "query"),
    "mlp": ("attention", "key", "value", "query", "mlp_gate", "mlp_up"),
}
REMAT = {
    "none": None,  # everything saved, nothing recomputed
    **{name: policies.save_only_these_names(*saved) for name, saved in REMAT_SAVES.items()},
    "dots": policies.dots_with_no_batch_dims_saveable,  # every product with a weight
}

# Of the hidden units of an MLP in the compute dtype, per device and chunk, on an accelerator.
MLP_BYTES = 2**28

# float16 would need loss scaling: gradients are those of a sum over tokens
DTYPES = ("auto", "float32", "bfloat16")

# splash_interpret runs the TPU's kernel on a CPU, for the tests
ATTENTION = ("auto", "xla", "cudnn", "splash", "splash_interpret")


@dataclasses.dataclass(frozen=True)
class Compute:
    """The execution choices that modules share; hashable, part of a model's static structure."""

    sharding: Sharding
    dtype: np.dtype  # of activations and matrix products
    param_dtype: np.dtype
    remat: str = "none"
    attention: str = "auto"  # auto | xla | cudnn | splash | splash_interpret
    unroll: int = 1  # layers per iteration of the scan
    mlp_chunk: int = 0  # tokens whose hidden units a backward pass holds at once; 0: by the device

    def checkpoint(self, step: Callable) -> Callable:
        """`step` under the remat policy."""
        if self.remat == "none":
            return step
        return jax.checkpoint(step, policy=REMAT[self.remat], prevent_cse=False)

    def saves(self, name: str) -> bool:
        """Whether the remat policy keeps what the layers call `name`."""
        return name in REMAT_SAVES.get(self.remat, (name,))

    def mlp_tokens(self, units: int) -> int:
        """Tokens of a chunk of the MLP's backward pass, for so many hidden units on a device."""
        if self.mlp_chunk:
            return self.mlp_chunk
        if self.sharding.mesh.devices.flat[0].platform == "cpu":
            return 2**62  # memory is not what a CPU lacks
        return max(MLP_BYTES // (units * self.dtype.itemsize), 1)

    def outside(self, rows: int) -> Compute:
        """See `Sharding.outside`."""
        sharding = self.sharding.outside(rows)
        return self if sharding is self.sharding else dataclasses.replace(self, sharding=sharding)

    def constrain(self, x: jax.Array, *axes: str | None) -> jax.Array:
        """See `Sharding.constrain`."""
        return self.sharding.constrain(x, *axes)

    def whole(self, param: jax.Array, axes: Sequence[str | None], inputs: int) -> jax.Array:
        """A parameter as it is used: gathered over `fsdp`, a matrix in the dtype of compute.

        The cast comes first: half the bytes are moved.
        """
        used = param.astype(self.dtype) if inputs else param
        return self.constrain(used, *self.sharding.gathered(axes))


def make_compute(
    sharding: Sharding | None = None, *, dtype: str = "auto", param_dtype: str = "float32",
    remat: str = "none", attention: str = "auto", unroll: int = 1, mlp_chunk: int = 0,
) -> Compute:
    """The Compute of these names; `dtype="auto"` is bfloat16 on accelerators, float32 on a CPU.

    Raises:
      UserError: a name that is none of ours.
    """
    sharding = sharding or single_device()
    for field, name in (("train.dtype", dtype), ("train.param_dtype", param_dtype)):
        if name not in DTYPES:
            raise unknown(field, name, DTYPES)
    if remat not in REMAT:
        raise unknown("train.remat", remat, REMAT)
    if attention not in ATTENTION:
        raise unknown("train.attention", attention, ATTENTION[:-1])
    on_cpu = sharding.mesh.devices.flat[0].platform == "cpu"
    if dtype == "auto":
        dtype = "float32" if on_cpu else "bfloat16"
    return Compute(
        sharding, as_dtype(dtype), as_dtype("float32" if param_dtype == "auto" else param_dtype),
        remat, attention, unroll, mlp_chunk,
    )


def as_dtype(name: Any) -> np.dtype:
    """The dtype object of a name such as "bfloat16"."""
    return jnp.dtype(name)
