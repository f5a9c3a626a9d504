"""How a model is executed, apart from what it computes: dtypes, sharding, kernels, memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.errors import UserError, unknown
from jaxllm.core.mesh import Sharding, single_device

policies = jax.checkpoint_policies

HOST = "pinned_host"  # the host's memory that a device can copy from and to, as jax names it

# What the backward pass finds saved of a layer, besides its input; the rest it computes again.
_KEPT = {
    "full": (),
    "attention": ("attention",),  # its output
    "kv": ("attention", "key", "value"),
    "projections": ("attention", "key", "value", "query"),
    "mlp": ("attention", "key", "value", "query", "mlp_gate", "mlp_up"),
}
# By policy, what lies in the host's memory from the forward pass to the backward pass. A policy
# that names the layer's "input" there keeps none on the device.
REMAT_OFFLOADS = {
    **{f"{name}_input_offload": ("input",) for name in _KEPT},
    **{f"{name}_offload": ("input", *kept) for name, kept in _KEPT.items() if kept},
}
# By policy, what stays on the device.
REMAT_SAVES = {
    **_KEPT,
    **{f"{name}_input_offload": kept for name, kept in _KEPT.items()},
    **{f"{name}_offload": () for name, kept in _KEPT.items() if kept},
}


def _policy(name: str) -> Callable:
    offloads = list(REMAT_OFFLOADS.get(name, ()))
    if not offloads:
        return policies.save_only_these_names(*REMAT_SAVES[name])
    return policies.save_and_offload_only_these_names(
        names_which_can_be_saved=list(REMAT_SAVES[name]),
        names_which_can_be_offloaded=offloads, offload_src="device", offload_dst=HOST,
    )


REMAT = {
    "none": None,  # everything saved, nothing recomputed
    "dots": policies.dots_with_no_batch_dims_saveable,  # every product with a weight
    **{name: _policy(name) for name in REMAT_SAVES},
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
        """Whether the remat policy keeps what the layers call `name`, here or on the host."""
        offloaded = REMAT_OFFLOADS.get(self.remat, ())
        return name in REMAT_SAVES.get(self.remat, (name,)) or name in offloaded

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
      UserError: a name that is none of ours, or a policy that the devices cannot carry out.
    """
    sharding = sharding or single_device()
    for field, name in (("train.dtype", dtype), ("train.param_dtype", param_dtype)):
        if name not in DTYPES:
            raise unknown(field, name, DTYPES)
    if remat not in REMAT:
        raise unknown("train.remat", remat, REMAT)
    if attention not in ATTENTION:
        raise unknown("train.attention", attention, ATTENTION[:-1])
    if remat in REMAT_OFFLOADS:
        check_host_memory(sharding, f"train.remat={remat!r}", "train.remat='full'")
    on_cpu = sharding.mesh.devices.flat[0].platform == "cpu"
    if dtype == "auto":
        dtype = "float32" if on_cpu else "bfloat16"
    return Compute(
        sharding, as_dtype(dtype), as_dtype("float32" if param_dtype == "auto" else param_dtype),
        remat, attention, unroll, mlp_chunk,
    )


def check_host_memory(sharding: Sharding, setting: str, instead: str) -> None:
    """Refuses a setting that keeps arrays on the host where devices cannot reach its memory.

    Raises:
      UserError: the backend has no such memory.
    """
    device = sharding.mesh.devices.flat[0]
    try:
        kinds = {memory.kind for memory in device.addressable_memories()}
    except (AttributeError, NotImplementedError, RuntimeError):  # a description, for compiling
        return
    if kinds and HOST not in kinds:  # another host's device may have none to tell of
        raise UserError(
            f"{setting} keeps arrays in the host's memory, and jax has no access to it from a "
            f"{device.device_kind} (it knows {', '.join(sorted(kinds))}). Set {instead}."
        )


def as_dtype(name: Any) -> np.dtype:
    """The dtype object of a name such as "bfloat16"."""
    return jnp.dtype(name)
