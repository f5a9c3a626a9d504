"""Linear maps, embeddings and dropout.

Shapes: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.core.mesh import Sharding
from jaxllm.nn.compute import Compute
from jaxllm.nn.lora import Lora
from jaxllm.nn.module import Module, Param, normal, parameter, zeros
from jaxllm.nn.quantised import Quantised, project_packed


class Linear(Module):
    """y = x · kernel (+ bias), from the last `len(inputs)` dimensions of x to `outputs`.

    The kernel may be packed in few bits, and it may have an adapter; then it is not trained.
    """

    lora: Lora | None = None  # of the class: nnx would not let an attribute of None become a module

    def __init__(
        self, key: jax.Array, compute: Compute, inputs: dict[str, int], outputs: dict[str, int],
        *, stddev: float, bias: bool = False,
    ):
        """`inputs` and `outputs` map logical axes to sizes, in order."""
        shape = (*inputs.values(), *outputs.values())
        self.kernel = parameter(
            key, shape, (*inputs, *outputs), normal(stddev), compute.param_dtype, len(inputs)
        )
        self.bias = (
            parameter(key, tuple(outputs.values()), tuple(outputs), zeros, compute.param_dtype)
            if bias else None
        )
        self.inputs, self.compute, self.axes = len(inputs), compute, (*inputs, *outputs)

    @property
    def plain(self) -> bool:
        """Whether the kernel is all there is, and trains."""
        return self.lora is None and isinstance(self.kernel, Param)

    def matrix(self) -> jax.Array:
        """The kernel in the dtype of compute, without its adapter."""
        if isinstance(self.kernel, Quantised):
            return self.kernel.unpacked(self.compute.dtype)
        return self.kernel[...].astype(self.compute.dtype)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """`key` switches on the dropout of the adapter."""
        if self.plain:
            y = self._project(x, self.matrix(), self.axes, self.inputs)
        else:
            y = self._fixed(x)
        if self.lora is not None:
            y = self._adapted(self.lora, x, y, key)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)

    def _fixed(self, x: jax.Array) -> jax.Array:
        """x · kernel, for a kernel that does not train."""
        if isinstance(self.kernel, Quantised):
            return project_packed(self.kernel.packing, x, self.kernel.arrays())
        return _contract(x, self.matrix(), range(x.ndim - self.inputs, x.ndim), range(self.inputs))

    def _adapted(self, lora: Lora, x: jax.Array, y: jax.Array, key: jax.Array | None) -> jax.Array:
        drops = key is not None and lora.dropout > 0
        if drops:
            x = dropout(x, lora.dropout, jax.random.fold_in(key, lora.place))
        a, b = (factor.kernel[...].astype(self.compute.dtype) for factor in (lora.a, lora.b))
        into = self._project(x, a, (*self.axes[: self.inputs], None), self.inputs)
        delta = lora.scale * self._project(into, b, (None, *self.axes[self.inputs :]), 1)
        if lora.magnitude is None:
            return y + delta
        lengths = lora.lengths(self.matrix()).astype(y.dtype)
        if not drops:
            return (y + delta) * lengths
        # As in the authors' code and PEFT dropout meets all that DoRA adds, and not the base.
        return y + (lengths - 1) * self._fixed(x) + lengths * delta

    def _project(
        self, x: jax.Array, kernel: jax.Array, axes: tuple[str | None, ...], inputs: int
    ) -> jax.Array:
        spread = _spread(self.compute.sharding, axes, x.shape[: x.ndim - inputs])
        return project(inputs, spread, x, kernel)


class Spread(NamedTuple):
    """Over which devices tokens are cut, and a parameter with its gradient."""

    sharding: Sharding
    axes: tuple[str | None, ...]  # of the parameter


TOKENS = ("batch", "sequence")
LOOKUP_BYTES = 2**28  # of the float32 gradient of a table, before the devices' are added up


def _spread(
    sharding: Sharding, axes: tuple[str | None, ...], leading: tuple[int, ...]
) -> Spread | None:
    """How FSDP cuts a parameter's gradient from tokens of this shape; None: not, or not evenly."""
    if sharding.parts("embed") == 1 or len(leading) != len(TOKENS):
        return None
    uneven = any(n % sharding.parts(axis) for n, axis in zip(leading, TOKENS, strict=True))
    return None if uneven else Spread(sharding, axes)


def unfolded(product: jax.Array) -> jax.Array:
    """A product that is computed as it is written, whatever is done with it.

    XLA takes a transpose that follows into the product. On a CPU it then reads the first operand
    down its columns, which takes twice as long as the product and the transpose.
    """
    return jax.lax.platform_dependent(
        product, cpu=jax.lax.optimization_barrier, default=lambda x: x
    )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def project(inputs: int, spread: Spread | None, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x · kernel over the last `inputs` dimensions of x and the first of the kernel."""
    return _project_forward(inputs, spread, x, kernel)[0]


def _project_forward(inputs, spread, x, kernel):
    # A plain product, not `project` again: remat policies must see it to save it.
    y = _contract(x, kernel, range(x.ndim - inputs, x.ndim), range(inputs))
    return y, (x, kernel)


def _project_backward(inputs, spread, residuals, g):
    # Autodiff forms the kernel's gradient transposed and copies it back, and fuses the copies
    # with activations into strided loops: a quarter of a small model's step on a CPU. There the
    # first operand of a product over tokens is transposed too: let it be the narrower one.
    x, kernel = residuals
    outputs = kernel.ndim - inputs
    x_gradient = _contract(g, kernel, range(g.ndim - outputs, g.ndim), range(inputs, kernel.ndim))
    leading = range(x.ndim - inputs)

    def over_tokens(x, g):
        return _contract(x, g, leading, leading)

    if spread is None:
        if math.prod(kernel.shape[:inputs]) <= math.prod(kernel.shape[inputs:]):
            return x_gradient, over_tokens(x, g)
        gradient = unfolded(over_tokens(g, x))
        return x_gradient, jnp.moveaxis(gradient, range(outputs), range(inputs, kernel.ndim))
    sharding, axes = spread
    x_axes, g_axes = (
        (*TOKENS, *sharding.gathered(part)) for part in (axes[:inputs], axes[inputs:])
    )
    return x_gradient, sharding.summed(over_tokens, (x, x_axes), (g, g_axes), axes=axes)


def _contract(a, b, a_dims, b_dims):
    return jax.lax.dot_general(a, b, ((tuple(a_dims), tuple(b_dims)), ((), ())))


project.defvjp(_project_forward, _project_backward)


class Embedding(Module):
    """A table of vectors; tokens are looked up, hidden states can be scored against it."""

    def __init__(
        self, key: jax.Array, compute: Compute, rows: int, width: int, *, stddev: float,
        axis: str = "vocab",
    ):
        self.table = parameter(
            key, (rows, width), (axis, "embed"), normal(stddev), compute.param_dtype
        )
        self.compute, self.axes = compute, (axis, "embed")

    def __call__(self, ids_BT: jax.Array) -> jax.Array:
        if (spread := _spread(self.compute.sharding, self.axes, ids_BT.shape)) is not None:
            return _lookup(spread, self.compute.dtype, self.table[...], ids_BT)
        outside = self.compute.outside(ids_BT.shape[0])
        if outside is not self.compute:  # the stages of a pipeline share the rows here
            ids_BT = outside.constrain(ids_BT, "batch", "sequence")
        # Look up, then cast: the gradient is then added up in the parameters' dtype.
        x_BTD = jnp.take(self.table[...], ids_BT, axis=0, mode="clip")
        return x_BTD.astype(self.compute.dtype)

    def as_head(self) -> jax.Array:
        """The table as an output projection, [D, V]."""
        return self.table[...].T


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _lookup(spread: Spread, dtype: Any, table_VD: jax.Array, ids_BT: jax.Array) -> jax.Array:
    """Rows of a table that FSDP cuts by columns, gathered a block of rows at a time.

    The partitioner would look up each device's few columns of every device's tokens and exchange
    them: on a large slice narrower than a TPU's lanes, so that they take many times their size.
    """
    sharding, axes = spread
    V, D = table_VD.shape
    blocks, rows = _blocks(spread, V, D)
    table_nRD = jnp.pad(table_VD.astype(dtype), ((0, blocks * rows - V), (0, 0)))
    table_nRD = sharding.constrain(table_nRD.reshape(blocks, rows, D), None, *axes)

    def block(x_BTD, scanned):
        first, block_RD = scanned
        whole = sharding.constrain(block_RD, *sharding.gathered(axes))
        at = _within(ids_BT, first, rows)
        found = jnp.take(whole, at, axis=0, mode="fill", fill_value=0)
        return x_BTD + sharding.constrain(found, *TOKENS, None), None

    start = sharding.constrain(jnp.zeros((*ids_BT.shape, D), dtype), *TOKENS, None)
    firsts = jnp.arange(blocks, dtype=ids_BT.dtype) * rows
    return jax.lax.scan(block, start, (firsts, table_nRD))[0]


def _lookup_forward(spread, dtype, table_VD, ids_BT):
    like_0V = jnp.empty((0, table_VD.shape[0]), table_VD.dtype)
    return _lookup(spread, dtype, table_VD, ids_BT), (ids_BT, like_0V)


def _lookup_backward(spread, dtype, residuals, g_BTD):
    ids_BT, like_0V = residuals
    V, D = like_0V.shape[1], g_BTD.shape[-1]
    blocks, rows = _blocks(spread, V, D)
    parts = spread.sharding.parts(spread.axes[0])  # devices with rows of their own
    own = rows // parts

    def block(_, first):
        def added(ids, g, firsts):
            zeros = jnp.zeros((own, D), jnp.float32)  # a token may occur thousands of times
            return zeros.at[_within(ids, firsts[0], own)].add(g.astype(jnp.float32), mode="drop")

        firsts = first + jnp.arange(parts, dtype=first.dtype) * own
        return None, spread.sharding.summed(
            added, (ids_BT, TOKENS), (g_BTD, (*TOKENS, None)), (firsts, spread.axes[:1]),
            axes=spread.axes,
        ).astype(like_0V.dtype)

    found = jax.lax.scan(block, None, jnp.arange(blocks, dtype=ids_BT.dtype) * rows)[1]
    return found.reshape(blocks * rows, D)[:V], None


_lookup.defvjp(_lookup_forward, _lookup_backward)


def _blocks(spread: Spread, V: int, D: int) -> tuple[int, int]:
    """How many blocks of how many rows a table is gathered in; one where its rows are cut too."""
    cut = spread.sharding.parts(spread.axes[0]) > 1
    blocks = 1 if cut else -(-V * D * 4 // LOOKUP_BYTES)
    return blocks, -(-V // blocks)


def _within(ids: jax.Array, first: jax.Array, rows: int) -> jax.Array:
    """Row of the block that begins at `first`; `rows`, beyond its end, for ids of other blocks."""
    return jnp.where((ids >= first) & (ids < first + rows), ids - first, rows)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes entries with probability `rate` and scales the rest; the identity without a key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


def residual_stddev(stddev: float, layers: int, scaled: bool) -> float:
    """Initial stddev of a projection that adds to the residual stream (Radford et al. 2019)."""
    return stddev / math.sqrt(2 * layers) if scaled else stddev
