"""The train state, born sharded: shapes, shardings and initial values of everything that trains."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jaxllm.models.config import ModelConfig
from jaxllm.models.parameters import check_divisible, is_spec, param_shardings
from jaxllm.models.transformer import Transformer
from jaxllm.nn.compute import HOST, Compute, check_host_memory
from jaxllm.nn.module import Params, Structure, abstract, split
from jaxllm.train.config import OptimizerConfig
from jaxllm.train.optimizers import Schedule, make_optimizer


class TrainState(NamedTuple):
    """What a step turns into the next; a pytree of arrays."""

    step: jax.Array  # int32, updates done
    finite: jax.Array  # bool; False from the first non-finite step on: the state is then frozen
    params: Params
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything about a run's model and optimizer that is static."""

    model: ModelConfig
    compute: Compute
    structure: Structure
    specs: Params  # ParamSpec leaves
    optimizer: optax.GradientTransformation
    schedule: Schedule
    max_grad_norm: float
    shapes: TrainState  # ShapeDtypeStruct leaves
    shardings: TrainState  # NamedSharding leaves, of the memory that each lies in between steps


def make_setup(
    model: ModelConfig, compute: Compute, optimizer: OptimizerConfig, steps: int
) -> Setup:
    """Shapes and shardings of a run, without allocating anything.

    Raises:
      UserError: a parameter that the mesh cannot cut evenly, or an optimizer that is to lie where
        the devices have no access.
    """
    make = partial(Transformer, config=model, compute=compute)
    structure, specs = abstract(make)
    check_divisible(specs, compute.sharding)
    transformation, schedule = make_optimizer(optimizer, steps, specs)

    def initial(key: jax.Array) -> TrainState:
        params = split(make(key))[1]
        return TrainState(
            jnp.int32(0), jnp.bool_(True), params, transformation.init(params)
        )

    shapes = jax.eval_shape(initial, jax.random.key(0))
    params = param_shardings(specs, compute.sharding)
    replicated = compute.sharding.replicated()
    opt_state = _optimizer_shardings(shapes.opt_state, specs, params, replicated)
    if optimizer.placement == "host":
        check_host_memory(
            compute.sharding, "optimizer.placement='host'", "optimizer.placement='device'"
        )
        opt_state = jax.tree.map(_on_host, opt_state, shapes.opt_state)
    shardings = TrainState(replicated, replicated, params, opt_state)
    return Setup(
        model, compute, structure, specs, transformation, schedule, optimizer.max_grad_norm,
        shapes, shardings,
    )


def init_state(setup: Setup, seed: int, params: Params | None = None) -> TrainState:
    """A fresh state, computed on the devices already in its shards.

    `params` are used instead of new ones when given.
    """
    def fresh(key: jax.Array) -> TrainState:
        new = split(Transformer(key, setup.model, setup.compute))[1]
        return start(new)

    def start(params: Params) -> TrainState:
        return TrainState(
            jnp.int32(0), jnp.bool_(True), params, setup.optimizer.init(params)
        )

    if params is None:
        return jax.jit(fresh, out_shardings=setup.shardings)(jax.random.key(seed))
    return jax.jit(start, out_shardings=setup.shardings)(params)


def fetched(opt_state: Any, setup: Setup) -> Any:
    """The optimizer's state in the devices' memory, for an update; inside jit."""
    return jax.tree.map(
        lambda x, place: jax.device_put(x, place.with_memory_kind("device"))
        if place.memory_kind == HOST else x, opt_state, setup.shardings.opt_state,
    )


def put_back(opt_state: Any, setup: Setup) -> Any:
    """The optimizer's state where it lies between updates; inside jit."""
    return jax.tree.map(
        lambda x, place: jax.device_put(x, place) if place.memory_kind == HOST else x,
        opt_state, setup.shardings.opt_state,
    )


def _on_host(place: NamedSharding, shape: jax.ShapeDtypeStruct) -> NamedSharding:
    """Moments go to the host; counters, of a few bytes, stay."""
    return place.with_memory_kind(HOST) if shape.ndim else place


def _optimizer_shardings(opt_state: Any, specs: Params, params: Params, replicated: Any) -> Any:
    """Moments lie as their parameter does, factored ones along the dimensions they keep.

    Scalar statistics are replicated.
    """
    table = {
        tuple(key.key for key in path): (spec.shape, sharding)
        for (path, spec), sharding in zip(
            jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec),
            jax.tree.leaves(params), strict=True,
        )
    }

    def of(path, leaf):
        names = tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        # optax nests the parameters' tree under keys of its own
        found = [table[names[i:]] for i in range(len(names)) if names[i:] in table]
        if not found:
            return replicated
        shape, sharding = found[0]
        if shape == leaf.shape:
            return sharding
        fields = {key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)}
        gone = _reduced(shape, fields)
        if gone is None or np.delete(shape, gone).tolist() != list(leaf.shape):
            return replicated
        kept = [axis for at, axis in enumerate(sharding.spec) if at != gone]
        return NamedSharding(sharding.mesh, PartitionSpec(*kept))

    return jax.tree_util.tree_map_with_path(of, opt_state)


def _reduced(shape: tuple[int, ...], fields: set[str]) -> int | None:
    """The dimension over which Adafactor's rows or columns are means; None for other statistics.

    Of the two largest, columns lack the smaller and rows the larger (optax.scale_by_factored_rms).
    """
    order = np.argsort(shape)
    if len(shape) < 2 or not fields & {"v_row", "v_col"}:
        return None
    return int(order[-1] if "v_row" in fields else order[-2])
