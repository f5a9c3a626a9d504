"""The layer loop of fully sharded parameters (ZeRO-3): each layer is gathered one layer ahead.

Left to itself the partitioner gathers a layer's weights when the layer needs them, or cuts the
product into a loop of permutes. Here the loop says it: an iteration starts the gather of the next
layer's weights, in the compute dtype, and computes with those that the last iteration gathered.
The backward loop does the same from the last layer to the first, and scatters the sum of each
layer's gradient as soon as it is there (Rajbhandari et al. 2020; Zhao et al. 2023).

Autodiff of a plain scan would save every layer's gathered weights. So forward and backward are
written out: what a layer saves is what its remat policy names, and nothing that can be had again.
Parameters that are not differentiated, as an adapter's base, get no gradient here either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

Tree = Any
Step = Callable[[Tree, jax.Array, Tree, Tree], jax.Array]  # (weights, x, own, shared) -> x


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def scan_ahead(
    steps: Sequence[Step], gather: Callable[[Tree], Tree], scatter: Callable[[Tree], Tree],
    params: Tree, x: jax.Array, own: Tree, shared: Tree,
) -> jax.Array:
    """`x` after all layers: `x = steps[i % len(steps)](gather(params[i]), x, own[i], shared)`.

    Args:
      steps: the layer at each place of a repeating pattern, remat included.
      gather: a layer's parameters as they are kept, made what its step takes.
      scatter: the gradient of what `gather` gives, made that of its argument; linear. It is given
        None for what has no gradient, and gives None.
      params, own: per layer, stacked; no gradient goes to `own`.
      shared: what all layers read; gradients go to those of its arrays that are differentiated.
    """
    size, repetitions = len(steps), _repetitions(params, len(steps))

    def repetition(carry, scanned):
        x, weights = carry
        index, own = scanned
        for place, step in enumerate(steps):
            after = _layer(gather, params, index * size + place + 1)
            x = step(weights, x, _at(own, place), shared)
            weights = after
        return (x, weights), None

    start = (x, _layer(gather, params, 0))
    scanned = (jnp.arange(repetitions), _grouped(own, size))
    return jax.lax.scan(repetition, start, scanned)[0][0]


def _forward(steps, gather, scatter, params, x, own, shared):
    flags = flags_of(params, shared)
    params, x, own, shared = jax.tree.map(
        lambda leaf: leaf.value, (params, x, own, shared), is_leaf=is_primal
    )
    x, weights, tapes = forward(steps, gather, params, x, own, shared, flags)
    return x, (params, weights, own, shared, flags, tapes)


def forward(
    steps: Sequence[Step], gather: Callable[[Tree], Tree], params: Tree, x: jax.Array, own: Tree,
    shared: Tree, flags: Flags,
) -> tuple[jax.Array, Tree, Tree]:
    """As `scan_ahead`, with the last layer's gathered weights and what `backward` needs besides."""
    size, repetitions = len(steps), _repetitions(params, len(steps))

    def repetition(carry, scanned):
        x, weights = carry
        index, own = scanned
        tapes = []
        for place, step in enumerate(steps):
            after = _layer(gather, params, index * size + place + 1)
            x, tape = _taped(step, x, (weights, _at(own, place), shared), flags)
            tapes.append(tape)
            weights = after
        return (x, weights), tapes

    start = (x, _layer(gather, params, 0))
    scanned = (jnp.arange(repetitions), _grouped(own, size))
    (x, weights), tapes = jax.lax.scan(repetition, start, scanned)
    return x, weights, tapes


def _backward(steps, gather, scatter, residuals, dx):
    params, weights, own, shared, flags, tapes = residuals
    if isinstance(dx, SymbolicZero):
        dx = jnp.zeros(dx.shape, dx.dtype)
    gradients, dx, dlearned = backward(
        steps, gather, scatter, params, weights, own, shared, flags, tapes, dx
    )
    dparams = with_gaps(params, gradients, flags.params)
    return dparams, dx, None, with_gaps(shared, dlearned, flags.shared)


def backward(
    steps: Sequence[Step], gather: Callable[[Tree], Tree], scatter: Callable[[Tree], Tree],
    params: Tree, weights: Tree, own: Tree, shared: Tree, flags: Flags, tapes: Tree,
    dx: jax.Array,
) -> tuple[list[jax.Array], jax.Array, list[jax.Array]]:
    """The gradients of the flagged arrays of `params`, of `x` and of those of `shared`."""
    size, repetitions = len(steps), _repetitions(params, len(steps))

    def repetition(carry, scanned):
        dx, weights, dshared = carry
        index, own, tapes = scanned
        gradients = [None] * size
        for place in reversed(range(size)):
            before = _layer(gather, params, index * size + place - 1)
            vjp = tapes[place].restored((weights, _at(own, place), shared))
            dweights, dx, added = vjp(dx)
            scattered = scatter(with_gaps(weights, dweights, flags.params))
            gradients[place] = jax.tree.leaves(scattered)  # None is no leaf
            dshared = jax.tree.map(jnp.add, dshared, added)
            weights = before
        return (dx, weights, dshared), jax.tree.map(lambda *g: jnp.stack(g), *gradients)

    learned = flagged(shared, flags.shared)
    start = (dx, weights, jax.tree.map(jnp.zeros_like, learned))
    scanned = (jnp.arange(repetitions), _grouped(own, size), tapes)
    (dx, _, dlearned), gradients = jax.lax.scan(repetition, start, scanned, reverse=True)
    gradients = jax.tree.map(
        lambda g, p: g.reshape(p.shape).astype(p.dtype), gradients, flagged(params, flags.params)
    )
    return gradients, dx, dlearned


def flagged(tree: Tree, flags: Sequence[bool]) -> list[jax.Array]:
    """The arrays of a tree that are differentiated."""
    leaves = jax.tree.leaves(tree)
    return [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]


def with_gaps(tree: Tree, found: Sequence[jax.Array], flags: Sequence[bool]) -> Tree:
    """`tree` with what was found for its flagged arrays, and None for the others."""
    rest = iter(found)
    leaves = [next(rest) if flag else None for flag in flags]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


scan_ahead.defvjp(_forward, _backward, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def gathered(
    gather: Callable[[Tree], Tree], scatter: Callable[[Tree], Tree], params: Tree
) -> Tree:
    """`gather(params)` for one layer apart, its gradient passed through `scatter`."""
    return gather(params)


def _gathered_forward(gather, scatter, params):
    flags = flags_of(params, ())
    params = jax.tree.map(lambda leaf: leaf.value, params, is_leaf=is_primal)
    return gather(params), (flags, jax.tree.map(lambda p: jnp.empty(0, p.dtype), params))


def _gathered_backward(gather, scatter, residuals, gradients):
    flags, like = residuals
    kept = [
        jnp.zeros(g.shape, g.dtype) if isinstance(g, SymbolicZero) else g
        for g in flagged(gradients, flags.params)
    ]
    found = jax.tree.leaves(scatter(with_gaps(like, kept, flags.params)))
    dtypes = flagged(like, flags.params)
    found = [g.astype(d.dtype) for g, d in zip(found, dtypes, strict=True)]
    return (with_gaps(like, found, flags.params),)


gathered.defvjp(_gathered_forward, _gathered_backward, symbolic_zeros=True)


@partial(
    jax.tree_util.register_dataclass, data_fields=["saved"], meta_fields=["structure", "sources"]
)
@dataclasses.dataclass
class _Tape:
    """The function that pulls a gradient back through a layer, less the arrays had otherwise.

    `sources` says of each array that it holds its place among what is known and, after it, what is
    saved. The layer's input is saved like any other array, and only if it is held: a policy that
    keeps it on the host needs it nowhere else.
    """

    saved: list[jax.Array]
    structure: Any
    sources: tuple[int, ...]

    def restored(self, known: Tree) -> Callable:
        """The function whole again, from the arrays that it shares with `known`."""
        leaves = [*jax.tree.leaves(known), *self.saved]
        return jax.tree.unflatten(self.structure, [leaves[at] for at in self.sources])


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["params", "shared"])
@dataclasses.dataclass
class Flags:
    """Which arrays are differentiated, in the order of the trees' leaves."""

    params: tuple[bool, ...]
    shared: tuple[bool, ...]

    @classmethod
    def none(cls, params: Tree, shared: Tree) -> Flags:
        """Nothing is."""
        counts = (len(jax.tree.leaves(tree)) for tree in (params, shared))
        return cls(*((False,) * count for count in counts))


def flags_of(params: Tree, shared: Tree) -> Flags:
    """The flags of trees as a custom rule with symbolic zeros is given them."""
    return Flags(*(
        tuple(leaf.perturbed for leaf in jax.tree.leaves(tree, is_leaf=is_primal))
        for tree in (params, shared)
    ))


def _taped(step: Step, x: jax.Array, known: Tree, flags: Flags) -> tuple[jax.Array, _Tape]:
    weights, own, shared = known

    def run(trained, x, learned):
        return step(
            _merged(weights, trained, flags.params), x, own,
            _merged(shared, learned, flags.shared),
        )

    y, vjp = jax.vjp(run, flagged(weights, flags.params), x, flagged(shared, flags.shared))
    held, form = jax.tree.flatten(vjp)
    shared_with = jax.tree.leaves(known)
    places, saved = {id(leaf): at for at, leaf in enumerate(shared_with)}, []
    for leaf in held:
        if id(leaf) not in places:
            places[id(leaf)] = len(shared_with) + len(saved)
            saved.append(leaf)
    return y, _Tape(saved, form, tuple(places[id(leaf)] for leaf in held))


def _merged(tree: Tree, found: Sequence[jax.Array], flags: Sequence[bool]) -> Tree:
    """`tree` with its flagged arrays replaced."""
    rest, (leaves, structure) = iter(found), jax.tree.flatten(tree)
    merged = [next(rest) if flag else leaf for leaf, flag in zip(leaves, flags, strict=True)]
    return jax.tree.unflatten(structure, merged)


def _layer(gather: Callable[[Tree], Tree], params: Tree, index: jax.Array | int) -> Tree:
    """Layer `index` gathered; beyond either end the last of that end, which is there already."""
    count = jax.tree.leaves(params)[0].shape[0]
    index = jnp.clip(index, 0, count - 1)
    return gather(jax.tree.map(
        lambda p: jax.lax.dynamic_index_in_dim(p, index, keepdims=False), params
    ))


def _repetitions(params: Tree, size: int) -> int:
    return jax.tree.leaves(params)[0].shape[0] // size


def _grouped(tree: Tree, size: int) -> Tree:
    return jax.tree.map(lambda a: a.reshape(a.shape[0] // size, size, *a.shape[1:]), tree)


def _at(tree: Tree, place: int) -> Tree:
    return jax.tree.map(lambda a: a[place], tree)


def is_primal(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")
