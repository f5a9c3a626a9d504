"""Matrices kept in 4 or 8 bits, for a base that is read and never trained.

nf4 (Dettmers et al. 2023, QLoRA, arXiv:2305.14314): an entry is one of 16 quantiles of a normal
distribution, times the largest magnitude of its block, 64 entries along the inputs. The codebook,
the blocks and the order of the halves of a byte are those of bitsandbytes on a torch weight
[outputs, inputs]. Double quantisation keeps the blocks' scales in 8 bits too, relative to their
mean; a group of up to 256 scales shares one float32. int8: one scale an output.

Entries become floats in the dtype of compute where the matrix is used, inside the layer loop: what
is gathered over devices and kept from the forward pass is the packed form.

Shapes: I inputs as one, padded to whole blocks; O… outputs; n blocks of 64 inputs; o groups of g of
the last output dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.mesh import Sharding
from jaxllm.nn.module import Module, Param

BLOCK = 64  # inputs that share a scale
GROUP = 256  # scales, at most, that share a scale of their own
# Appendix E of the paper, as bitsandbytes rounds it.
NF4 = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
], np.float32)

Arrays = dict[str, jax.Array]


class Packing(Protocol):
    """How a matrix of one shape is packed; hashable."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def pack(self, kernel: jax.Array) -> Arrays:
        """The arrays of a matrix [*inputs, *outputs]."""

    def unpack(self, arrays: Arrays, dtype: Any) -> jax.Array:
        """The matrix in this dtype."""

    def axes(self, axes: tuple[str, ...], sharding: Sharding) -> dict[str, tuple[str | None, ...]]:
        """The logical axes of each array, from those of the matrix."""


@dataclass(frozen=True)
class Nf4:
    """Four bits an entry."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    double: bool = True

    @property
    def blocks(self) -> int:
        """n."""
        return -(-math.prod(self.inputs) // BLOCK)

    @property
    def grouped(self) -> int:
        """g: a power of two that divides the last output dimension."""
        g, last = 1, self.outputs[-1]
        while self.blocks * g * 2 <= GROUP and last % (g * 2) == 0:
            g *= 2
        return g

    def pack(self, kernel: jax.Array) -> Arrays:
        """codes uint8 [I/2, O…], two inputs a byte, the first in the upper half; scales [n, O…].

        Scales are float32, or int8 with `factors` [*O[:-1], o] and their `mean`, float32.
        """
        x_IO = kernel.astype(jnp.float32).reshape(-1, *self.outputs)
        spare = self.blocks * BLOCK - x_IO.shape[0]
        x_IO = jnp.pad(x_IO, ((0, spare), *((0, 0),) * len(self.outputs)))
        x_nbO = x_IO.reshape(self.blocks, BLOCK, *self.outputs)
        scales_nO = jnp.max(jnp.abs(x_nbO), axis=1)
        unit = x_nbO / jnp.where(scales_nO == 0, 1.0, scales_nO)[:, None]
        codes = sum((unit > middle).astype(jnp.uint8) for middle in (NF4[1:] + NF4[:-1]) / 2)
        codes = codes.reshape(-1, 2, *self.outputs)
        packed = {"codes": (codes[:, 0] << 4) | codes[:, 1], "scales": scales_nO}
        if not self.double:
            return packed
        mean = jnp.mean(scales_nO)
        rest = self._in_groups(scales_nO - mean)
        factors = jnp.max(jnp.abs(rest), axis=(0, -1)) / 127
        steps = rest / jnp.where(factors == 0, 1.0, factors)[..., None]
        scales = jnp.round(steps).astype(jnp.int8).reshape(scales_nO.shape)
        return {**packed, "scales": scales, "factors": factors, "mean": mean}

    def unpack(self, arrays: Arrays, dtype: Any) -> jax.Array:
        """See Packing."""
        scales_nO = arrays["scales"]
        if self.double:
            steps = self._in_groups(scales_nO.astype(jnp.float32))
            scales_nO = arrays["mean"] + steps * arrays["factors"][..., None]
            scales_nO = scales_nO.reshape(self.blocks, *self.outputs)
        # One chain of elementwise operations: a compiler makes nothing but the result of it.
        shifts = jnp.array([4, 0], jnp.uint8).reshape(1, 2, *(1,) * len(self.outputs))
        values = _decoded((arrays["codes"][:, None] >> shifts) & 15)
        x_nbO = values.reshape(self.blocks, BLOCK, *self.outputs) * scales_nO[:, None]
        x_IO = x_nbO.astype(dtype).reshape(-1, *self.outputs)[: math.prod(self.inputs)]
        return x_IO.reshape(*self.inputs, *self.outputs)

    def axes(self, axes: tuple[str, ...], sharding: Sharding) -> dict[str, tuple[str | None, ...]]:
        """See Packing. Scales stay whole along inputs that the devices do not share evenly."""
        first, outputs = axes[0], axes[len(self.inputs) :]
        cut = first if self.blocks % sharding.parts(first) == 0 else None
        found = {"codes": (first, *outputs), "scales": (cut, *outputs)}
        if self.double:
            found |= {"factors": (None,) * len(outputs), "mean": ()}
        return found

    def _in_groups(self, x_nO: jax.Array) -> jax.Array:
        return x_nO.reshape(*x_nO.shape[:-1], -1, self.grouped)


@dataclass(frozen=True)
class Int8:
    """Eight bits an entry, its output's largest magnitude at 127."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def pack(self, kernel: jax.Array) -> Arrays:
        """codes int8 of the matrix' shape; scales float32 [O…]."""
        kernel = kernel.astype(jnp.float32)
        scales_O = jnp.max(jnp.abs(kernel), axis=tuple(range(len(self.inputs)))) / 127
        codes = jnp.round(kernel / jnp.where(scales_O == 0, 1.0, scales_O))
        return {"codes": codes.astype(jnp.int8), "scales": scales_O}

    def unpack(self, arrays: Arrays, dtype: Any) -> jax.Array:
        """See Packing."""
        return (arrays["codes"].astype(jnp.float32) * arrays["scales"]).astype(dtype)

    def axes(self, axes: tuple[str, ...], sharding: Sharding) -> dict[str, tuple[str | None, ...]]:
        """See Packing."""
        return {"codes": axes, "scales": axes[len(self.inputs) :]}


def _decoded(code: jax.Array) -> jax.Array:
    """NF4[code], float32, by selections, which vector units do and a look-up in a table they do
    not; of `lax`, because XLA keeps every argument of a nested jit, as jnp.where is, in memory.
    """
    level = [jax.lax.full(code.shape, value, jnp.float32) for value in NF4]
    for bit in range(4):
        is_set = jax.lax.ne(code & (1 << bit), jnp.uint8(0))
        level = [
            jax.lax.select(is_set, high, low)
            for low, high in zip(level[::2], level[1::2], strict=True)
        ]
    return level[0]


def make_packing(
    name: str, inputs: tuple[int, ...], outputs: tuple[int, ...], double: bool
) -> Packing:
    """The packing of this name, nf4 or int8, for matrices of these sizes."""
    return Nf4(inputs, outputs, double) if name == "nf4" else Int8(inputs, outputs)


def by_layer(function: Callable[..., Any], sharding: Sharding) -> Callable[..., Any]:
    """`function` of one layer, for arrays that are stacked: one after the other, to save memory.

    Layers that the stages of a pipeline share are all done at once, each where it is.
    """
    if sharding.parts("layers") > 1:
        return jax.vmap(function)
    return lambda *arrays: jax.lax.map(lambda one: function(*one), arrays)


class Quantised(Module):
    """A packed matrix, in the place of a `kernel`."""

    def __init__(self, kernel: Param, packing: Packing, sharding: Sharding):
        """Packs a kernel, one of a layer or stacked."""
        axes = kernel.get_metadata()["axes"]
        lead = axes[: len(axes) - len(packing.inputs) - len(packing.outputs)]
        pack = by_layer(packing.pack, sharding) if lead else packing.pack
        named = packing.axes(axes[len(lead) :], sharding)
        for name, array in pack(kernel[...]).items():
            param = Param(array, axes=(*lead, *named[name]), inputs=0, trained=False)
            setattr(self, name, param)
        self.packing, self.names = packing, tuple(named)

    def arrays(self) -> Arrays:
        """The packed form."""
        return {name: getattr(self, name)[...] for name in self.names}

    def unpacked(self, dtype: Any) -> jax.Array:
        """The matrix of one layer."""
        return self.packing.unpack(self.arrays(), dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def project_packed(packing: Packing, x: jax.Array, arrays: Arrays) -> jax.Array:
    """x · matrix over the last dimensions of x, for a matrix that no gradient goes to.

    It is unpacked anew for the gradient of x, so that no copy of it outlives its use.
    """
    return _forward(packing, x, arrays)[0]


def _forward(packing, x, arrays):
    # A plain product, not `project_packed` again: remat policies must see it to save it.
    kernel, inputs = packing.unpack(arrays, x.dtype), len(packing.inputs)
    over = (range(x.ndim - inputs, x.ndim), range(inputs))
    return jax.lax.dot_general(x, kernel, (over, ((), ()))), arrays


def _backward(packing, arrays, g):
    kernel = packing.unpack(arrays, g.dtype)
    inputs, outputs = len(packing.inputs), len(packing.outputs)
    over = (range(g.ndim - outputs, g.ndim), range(inputs, kernel.ndim))
    return jax.lax.dot_general(g, kernel, (over, ((), ()))), None


project_packed.defvjp(_forward, _backward)
