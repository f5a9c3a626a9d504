"""Modules as pytrees: the only file that imports flax.

A model is an nnx.Module for readability; everything that transforms it is plain JAX. `split`
turns a module into a static structure and a plain nested dictionary of arrays, `bind` puts them
together again inside jit. No module holds an Rngs object (under jit and scan its counter stands
still and every dropout mask repeats): keys are arguments.

Each parameter carries its logical axes, one name per dimension; `Stack` prepends "layers".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.nn.ahead import gathered, scan_ahead
from jaxllm.nn.compute import Compute
from jaxllm.nn.pipeline import Plan, pipelined

Module = nnx.Module
ModuleList = nnx.List
Params = dict[str, Any]  # nested dictionaries of arrays, keyed by attribute names
Structure = nnx.GraphDef


class Param(nnx.Variable):
    """A parameter; metadata `axes` and `inputs` describe its dimensions, see ParamSpec."""


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """Shape, dtype and meaning of one parameter.

    `inputs` counts the dimensions that a matrix product contracts; they stand first, after
    "layers" where the parameter is stacked.
    """

    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[str | None, ...]
    inputs: int
    trained: bool = True  # False: an adapter's base


def normal(stddev: float) -> Callable:
    """Initialiser N(0, stddev²)."""
    return lambda key, shape, dtype: stddev * jax.random.normal(key, shape, dtype)


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Initialiser of zeros."""
    return jnp.zeros(shape, dtype)


def ones(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Initialiser of ones."""
    return jnp.ones(shape, dtype)


def parameter(
    key: jax.Array, shape: tuple[int, ...], axes: tuple[str | None, ...], init: Callable,
    dtype: Any, inputs: int = 0,
) -> Param:
    """A parameter with one logical axis name per dimension."""
    if len(shape) != len(axes):
        raise ValueError(f"shape {shape} and axes {axes} differ in length.")
    return Param(init(key, shape, dtype), axes=axes, inputs=inputs)


def split(module: Module) -> tuple[Structure, Params]:
    """The static structure of a module and its parameters as nested dictionaries."""
    structure, state = nnx.split(module)
    return structure, nnx.to_pure_dict(state)


def bind(structure: Structure, params: Params) -> Any:
    """The module with these parameters; cheap, meant to be called inside jit."""
    return nnx.merge(structure, params)


def submodules(module: Module, path: str = "") -> Iterator[tuple[str, Module]]:
    """Every module below this one, by the dotted path of its parameters."""
    for name, child in vars(module).items():
        if isinstance(child, Module):
            yield f"{path}{name}", child
            yield from submodules(child, f"{path}{name}.")


def own_params(module: Module) -> Iterator[tuple[str, Param]]:
    """The parameters of a module itself, by name."""
    for name, child in vars(module).items():
        if isinstance(child, Param):
            yield name, child


def abstract(make: Callable[[jax.Array], Module]) -> tuple[Structure, Params]:
    """Structure and ParamSpec tree of `make(key)`, without computing anything."""
    module = nnx.eval_shape(make, jax.random.key(0))
    structure, state = nnx.split(module)
    specs: Params = {}
    for path, variable in nnx.to_flat_state(state):
        value, meta = variable.get_value(), variable.get_metadata()
        node = specs
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = ParamSpec(
            value.shape, value.dtype, meta["axes"], meta["inputs"], meta.get("trained", True)
        )
    return structure, specs


class Stack(Module):
    """`count` layers of one shape held as one, every parameter with a leading "layers" dimension.

    Layers may differ in what the code makes of them: layer i is at place i modulo `group` of a
    repeating pattern. Layers after the last whole repetition are held apart, in `tail`.
    """

    def __init__(
        self, make: Callable[[jax.Array], Module], count: int, key: jax.Array, group: int = 1
    ):
        keys, whole = jax.random.split(key, count), count - count % group
        self.layer = _stacked(make, keys[:whole])
        self.tail = _stacked(make, keys[whole:]) if whole < count else None
        self.count, self.group = count, group

    def scan(
        self, body: Callable, carry: Any, xs: Any = None, *, wrap: Callable = lambda f: f,
        unroll: int = 1,
    ) -> tuple[Any, Any]:
        """`carry, y = body(layer, place, carry, x)` over the layers in order, as one `lax.scan`.

        `place` is the static place in the pattern. `wrap` transforms the step of a layer, such as
        `jax.checkpoint`; `xs` has a leading layer dimension, and so have the results.
        """
        structure, params = split(self.layer)
        group, whole = self.group, self.count - self.count % self.group

        def step(place: int):
            return wrap(
                lambda carry, params, x: body(bind(structure, params), place, carry, x)
            )

        def repetition(carry, scanned):
            if group == 1:
                return step(0)(carry, *scanned)
            return _unrolled(step, group, carry, scanned)

        scanned = (params, _sliced(xs, slice(0, whole)))
        if group > 1:
            scanned = jax.tree.map(
                lambda a: a.reshape(whole // group, group, *a.shape[1:]), scanned
            )
        carry, ys = jax.lax.scan(repetition, carry, scanned, unroll=unroll)
        if group > 1:
            ys = jax.tree.map(lambda y: y.reshape(whole, *y.shape[2:]), ys)
        if self.tail is None:
            return carry, ys
        scanned = (split(self.tail)[1], _sliced(xs, slice(whole, None)))
        carry, rest = _unrolled(step, self.count - whole, carry, scanned)
        return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ys, rest)

    def scan_ahead(
        self, body: Callable, x: jax.Array, own: Any, shared: Any, compute: Compute
    ) -> jax.Array:
        """`x = body(layer, place, x, own, shared)` over the layers, for parameters cut by FSDP.

        Each layer's weights are gathered while the layer before computes, see `nn/ahead.py`; `own`
        has a leading layer dimension, and all that the layers read together is in `shared`.
        """
        def run(steps, gather, scatter, params, x, own):
            return scan_ahead(steps, gather, scatter, params, x, own, shared)

        return self._by_hand(run, body, x, own, shared, compute)

    def pipeline(
        self, body: Callable, x: jax.Array, own: Any, shared: Any, compute: Compute,
        microbatches: int,
    ) -> jax.Array:
        """As `scan_ahead`, the layers shared by the stages of a pipeline (`nn/pipeline.py`).

        `own` is a random key of each layer, or None.
        """
        sharding = compute.sharding
        stages, repeats = sharding.parts("layers"), sharding.repeats
        axes = _axes_of_layer(self.layer)

        def by_stage(a):
            return a.reshape(repeats, stages, -1, *a.shape[1:]).swapaxes(0, 1)

        def run(steps, gather, scatter, params, x, own):
            plan = Plan(sharding, steps, gather, scatter, repeats, microbatches)
            params = _map_axes(
                lambda a, axes, _: compute.constrain(by_stage(a), "layers", None, None, *axes),
                params, axes,
            )
            return pipelined(plan, params, x, jax.tree.map(by_stage, own), shared)

        return self._by_hand(run, body, x, own, shared, compute)

    def _by_hand(
        self, run: Callable, body: Callable, x: jax.Array, own: Any, shared: Any, compute: Compute
    ) -> jax.Array:
        """The layers of `layer` by `run(steps, gather, scatter, params, x, own)`, then the tail."""
        structure, params = split(self.layer)
        axes = _axes_of_layer(self.layer)
        whole = self.count - self.count % self.group

        def gather(params: Params) -> Params:
            return _map_axes(compute.whole, params, axes)

        def scatter(gradients: Params) -> Params:
            return _map_axes(
                lambda g, axes, _: None if g is None else compute.constrain(g, *axes),
                gradients, axes,
            )

        def step(place: int):
            return compute.checkpoint(
                lambda weights, x, own, shared: body(
                    bind(structure, weights), place, x, own, shared
                )
            )

        steps = tuple(step(place) for place in range(self.group))
        if whole % (self.group * compute.unroll) == 0:
            steps *= compute.unroll
        x = run(steps, gather, scatter, params, x, _sliced(own, slice(0, whole)))
        for index in range(whole, self.count):
            layer = _sliced(split(self.tail)[1], index - whole)
            weights = gathered(gather, scatter, layer)
            x = steps[index - whole](weights, x, _sliced(own, index), shared)
        return x


def _axes_of_layer(stacked: Module) -> Params:
    """(axes, inputs) of every parameter of one layer of a stack, in the tree of `split`."""
    state = nnx.state(stacked)
    found = nnx.map_state(
        lambda path, variable: (
            variable.get_metadata()["axes"][1:], variable.get_metadata()["inputs"]
        ), state,
    )
    return nnx.to_pure_dict(found)


def _map_axes(function: Callable, params: Params, axes: Params) -> Params:
    """`function(array, axes, inputs)` of every parameter."""
    if not isinstance(params, dict):
        return function(params, *axes)
    return {name: _map_axes(function, params[name], axes[name]) for name in params}


def _unrolled(step: Callable, count: int, carry: Any, scanned: Any) -> tuple[Any, Any]:
    """The steps of places 0 … count - 1, each with its slice of `scanned`; results stacked."""
    ys = []
    for place in range(count):
        carry, y = step(place)(carry, *_sliced(scanned, place))
        ys.append(y)
    return carry, jax.tree.map(lambda *y: jnp.stack(y), *ys)


def _sliced(tree: Any, index: int | slice) -> Any:
    return jax.tree.map(lambda a: a[index], tree)


def _stacked(make: Callable[[jax.Array], Module], keys: jax.Array) -> Module:
    structure, _ = split(make(keys[0]))
    stacked = bind(structure, jax.vmap(lambda k: split(make(k))[1])(keys))
    for _, variable in nnx.to_flat_state(nnx.state(stacked)):
        variable.set_metadata(axes=("layers", *variable.get_metadata()["axes"]))
    return stacked
