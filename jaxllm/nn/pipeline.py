"""The layer loop of a pipeline: each stage of devices holds some layers, microbatches pass through.

All stages work at once, each on another microbatch: one program with an array [stages, …] of their
inputs, cut along `stage`, to which the layers are applied under `vmap`, and which is rolled by one
place after every tick (Xu et al. 2021, GSPMD, section 3.3; the roll becomes a collective permute).
With `repeats` the microbatches go round several times and a stage holds as many parts of the
layers; the time that stages wait at both ends shrinks by that factor (Narayanan et al. 2021,
interleaved schedule): (stages - 1) / (microbatches * repeats + stages - 1) of the ticks.

What goes in and comes out is cut over the stages too, and moves towards the first stage as it is
needed, so that no device holds the inputs of all microbatches.

Forward and backward are written out as in `nn/ahead.py`, whose loop runs in each stage: a tick
saves its input and what the remat policy names, never weights.

Shapes: S stages, R repeats, p layers of a stage and repeat, M = S Q microbatches of b rows, T
tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxllm.core.mesh import Sharding
from jaxllm.nn import ahead

Tree = Any


class Plan(NamedTuple):
    """The schedule of a pipeline and the layers of a stage, apart from arrays."""

    sharding: Sharding
    steps: Sequence[ahead.Step]
    gather: Callable[[Tree], Tree]
    scatter: Callable[[Tree], Tree]
    repeats: int
    microbatches: int

    @property
    def stages(self) -> int:
        """S."""
        return self.sharding.parts("layers")

    @property
    def ticks(self) -> int:
        """How often the stages compute."""
        return self.microbatches * self.repeats + self.stages - 1

    def mapped(self, function: Callable, axes: Any) -> Callable:
        """`function` of one stage, for all of them."""
        return jax.vmap(function, in_axes=axes, spmd_axis_name="stage")

    def items(self, tick: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The repeat and the microbatch that each stage is at, int32 [S] each.

        A stage that waits is given one that exists; what it makes of it is thrown away.
        """
        item = jnp.clip(tick - jnp.arange(self.stages), 0, self.microbatches * self.repeats - 1)
        return item // self.microbatches, item % self.microbatches


def pipelined(plan: Plan, params: Tree, x_BTD: jax.Array, own: Tree, shared: Tree) -> jax.Array:
    """`x` after all layers, [B, T, D].

    Args:
      plan: the schedule; its steps, gather and scatter are those of `ahead.scan_ahead`.
      params: [S, R, p, …] each, cut along `stage`.
      own: a random key of each layer [S, R, p], or None; each microbatch has its own of it.
      shared: what all layers read; arrays with a leading B are cut as the rows are.
    """
    leaves, structure = jax.tree.flatten(shared)
    cut_up = tuple(leaf.ndim > 0 and leaf.shape[0] == x_BTD.shape[0] for leaf in leaves)

    def cut(leaf):
        return _into_microbatches(plan, leaf).reshape(plan.microbatches, -1, *leaf.shape[1:])

    leaves = [cut(leaf) if is_cut else leaf for leaf, is_cut in zip(leaves, cut_up, strict=True)]
    io = _pin(plan, _into_microbatches(plan, x_BTD), waiting=True)
    io = _ticks(plan, cut_up, params, io, own, jax.tree.unflatten(structure, leaves))
    return _out_of_microbatches(plan, io)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ticks(plan, cut_up, params, io_SQbTD, own, shared):
    """The microbatches after all layers, in their places."""
    flags = ahead.Flags.none(params, shared)
    return _forward_ticks(plan, cut_up, params, io_SQbTD, own, shared, flags)[0]


def _forward_ticks(plan, cut_up, params, io, own, shared, flags):
    moved = jnp.zeros_like(io[:, 0])

    def one(params, x, own, repeat, micro):
        mine, keys, known = _of_stage(cut_up, params, own, shared, repeat, micro)
        y, _, tapes = ahead.forward(plan.steps, plan.gather, mine, x, keys, known, flags)
        return y, tapes

    def body(carry, tick):
        io, moved = carry
        io, x = _feed(plan, tick, io, moved)
        y, tapes = plan.mapped(one, 0)(params, x, own, *plan.items(tick))
        return _collect(plan, tick, io, y), tapes

    (io, _), tapes = jax.lax.scan(body, (io, moved), jnp.arange(plan.ticks))
    return _aligned(plan, io), tapes


def _forward(plan, cut_up, params, io, own, shared):
    flags = ahead.flags_of(params, shared)
    params, io, own, shared = jax.tree.map(
        lambda leaf: leaf.value, (params, io, own, shared), is_leaf=ahead.is_primal
    )
    out, tapes = _forward_ticks(plan, cut_up, params, io, own, shared, flags)
    return out, (params, own, shared, flags, tapes)


def _backward(plan, cut_up, residuals, dio):
    params, own, shared, flags, tapes = residuals
    if isinstance(dio, SymbolicZero):
        dio = jnp.zeros(dio.shape, dio.dtype)
    like = jax.ShapeDtypeStruct((plan.stages, *dio.shape[2:]), dio.dtype)
    trained = ahead.flagged(params, flags.params)
    learned = ahead.flagged(shared, flags.shared)
    cut_learned = [c for c, flag in zip(cut_up, flags.shared, strict=True) if flag]

    def one(params, dy, own, repeat, micro, tapes, gradients):
        mine, keys, known = _of_stage(cut_up, params, own, shared, repeat, micro)
        weights = plan.gather(jax.tree.map(lambda p: p[-1], mine))
        found, dx, dlearned = ahead.backward(
            plan.steps, plan.gather, plan.scatter, mine, weights, keys, known, flags, tapes, dy,
        )
        gradients = jax.tree.map(lambda sum, g: sum.at[repeat].add(g), gradients, found)
        return dx, gradients, dlearned

    def body(carry, scanned):
        dio, dmoved, gradients, dlearned = carry
        tick, tapes = scanned
        dio, dy = _transposed(partial(_collect, plan, tick), (dio, dmoved), dio, like)
        items = plan.items(tick)
        dx, gradients, added = plan.mapped(one, 0)(params, dy, own, *items, tapes, gradients)
        dlearned = [
            sum.at[items[1]].add(new) if is_cut else sum + new.sum(0)
            for sum, new, is_cut in zip(dlearned, added, cut_learned, strict=True)
        ]
        dio, dmoved = _transposed(partial(_feed, plan, tick), (dio, dx), dio, like)
        return (dio, dmoved, gradients, dlearned), None

    dio = _transposed(partial(_aligned, plan), dio, dio)[0]
    zeros = partial(jax.tree.map, jnp.zeros_like)
    start = (dio, jnp.zeros(like.shape, like.dtype), zeros(trained), zeros(learned))
    scanned = (jnp.arange(plan.ticks), tapes)
    (dio, _, gradients, dlearned), _ = jax.lax.scan(body, start, scanned, reverse=True)
    dparams = ahead.with_gaps(params, gradients, flags.params)
    return dparams, dio, None, ahead.with_gaps(shared, dlearned, flags.shared)


_ticks.defvjp(_forward, _backward, symbolic_zeros=True)


def _transposed(function, cotangents, *like):
    return jax.linear_transpose(function, *like)(cotangents)


def _of_stage(cut_up, params, own, shared, repeat, micro):
    """The layers, their keys and the shared arrays of one stage's repeat and microbatch."""
    mine = jax.tree.map(lambda p: p[repeat], params)
    keys = jax.tree.map(
        lambda k: jax.vmap(jax.random.fold_in, (0, None))(k[repeat], micro), own
    )
    leaves, structure = jax.tree.flatten(shared)
    leaves = [leaf[micro] if cut else leaf for leaf, cut in zip(leaves, cut_up, strict=True)]
    return mine, keys, jax.tree.unflatten(structure, leaves)


# The microbatches wait in [S, Q, b, T, D]. At tick t the first stage takes place t % Q of its row,
# and that place of all rows moves up by one row. The last stage's output of the microbatch of that
# tick's number n goes where n's place has moved by then, and comes round to the first row at tick
# n + M, when its next repeat begins. All of it is linear, and transposed as such.


def _feed(plan, tick, io, moved):
    """What waits after this tick's move, and the inputs of all stages [S, b, T, D]."""
    at = tick % io.shape[1]
    place = jax.lax.dynamic_index_in_dim(io, at, 1, keepdims=False)
    x = jnp.where(_stage(plan, 0, io.ndim - 1), place, moved)
    io = jax.lax.dynamic_update_index_in_dim(io, jnp.roll(place, -1, axis=0), at, 1)
    return _pin(plan, io, waiting=True), _pin(plan, x)


def _collect(plan, tick, io, y):
    """What waits with the last stage's output in its place, and the outputs each a stage on."""
    last = plan.stages - 1
    moves, at = last // io.shape[1], (tick - last) % io.shape[1]
    place = jax.lax.dynamic_index_in_dim(io, at, 1, keepdims=False)
    here = _stage(plan, last - moves, io.ndim - 1) & (tick >= last)
    place = jnp.where(here, jnp.roll(y, -moves, axis=0), place)
    io = jax.lax.dynamic_update_index_in_dim(io, place, at, 1)
    return _pin(plan, io, waiting=True), _pin(plan, jnp.roll(y, 1, axis=0))


def _aligned(plan, io):
    """Every microbatch back in its row: the last ticks moved some places once more than others."""
    extra = [max(-(-(plan.stages - 1 - at) // io.shape[1]), 0) for at in range(io.shape[1])]
    places = [jnp.roll(io[:, at], moves, axis=0) for at, moves in enumerate(extra)]
    return _pin(plan, jnp.stack(places, axis=1), waiting=True)


def _stage(plan, which: int, dims: int) -> jax.Array:
    return (jnp.arange(plan.stages) == which).reshape(-1, *(1,) * (dims - 1))


def _pin(plan: Plan, x: jax.Array, waiting: bool = False) -> jax.Array:
    stream = plan.sharding.stream(x.shape[-2])
    places = (None,) if waiting else ()
    return plan.sharding.constrain(x, "layers", *places, "batch", stream, "act_embed")


def _into_microbatches(plan: Plan, x: jax.Array) -> jax.Array:
    """[B, …] as [S, Q, b, …], each device keeping rows that it has."""
    groups, stages = plan.sharding.parts("batch"), plan.stages
    x = x.reshape(groups, stages, plan.microbatches // stages, -1, *x.shape[1:])
    x = jnp.moveaxis(x, 0, 2)
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _out_of_microbatches(plan: Plan, x: jax.Array) -> jax.Array:
    """The inverse of `_into_microbatches`."""
    groups = plan.sharding.parts("batch")
    x = x.reshape(*x.shape[:2], groups, -1, *x.shape[3:])
    x = jnp.moveaxis(x, 2, 0)
    return x.reshape(-1, *x.shape[4:])
