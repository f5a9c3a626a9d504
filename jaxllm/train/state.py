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

from jaxllm.core.devices import quick_options
from jaxllm.models.adapters import trained as trained_params
from jaxllm.models.config import ModelConfig
from jaxllm.models.parameters import check_divisible, is_spec, param_shardings
from jaxllm.models.saved import Model
from jaxllm.models.transformer import Transformer
from jaxllm.nn.compute import HOST, Compute, check_host_memory
from jaxllm.nn.module import Params, Structure, abstract, split
from jaxllm.train.config import OptimizerConfig
from jaxllm.train.optimizers import Schedule, make_optimizer

CONSTANT = ("frozen", "reference", "teacher")  # fields that no step changes


class TrainState(NamedTuple):
    """What a step turns into the next; a pytree of arrays."""

    step: jax.Array  # int32, updates done
    finite: jax.Array  # bool; False from the first non-finite step on: nothing then changes
    params: Params  # those that train
    opt_state: Any
    # Read, never changed, and in no checkpoint: they come from where the run started.
    frozen: Params  # the model's other parameters
    reference: Params  # of the base, as far as they train, where a loss compares with them
    teacher: Params | None = None  # all of the model of `tune.distillation.teacher`

    def whole(self) -> Params:
        """All parameters of the model."""
        return merged(self.params, self.frozen)

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {name: value for name, value in self._asdict().items() if name not in CONSTANT}

    def with_constant(self, other: TrainState) -> TrainState:
        """The state with what never changes of another."""
        return self._replace(**{name: getattr(other, name) for name in CONSTANT})


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything about a run's model and optimizer that is static."""

    model: ModelConfig
    compute: Compute
    structure: Structure
    specs: Params  # ParamSpec leaves
    trained: Params  # bool leaves, as of `specs`
    optimizer: optax.GradientTransformation
    schedule: Schedule
    max_grad_norm: float
    l2_to_base: float
    shapes: TrainState  # ShapeDtypeStruct leaves
    shardings: TrainState  # NamedSharding leaves, of the memory that each lies in between steps
    teacher: Model | None = None  # of distillation, its parameters as shapes


def make_setup(
    model: ModelConfig, compute: Compute, optimizer: OptimizerConfig, steps: int,
    l2_to_base: float = 0.0, *, anchored: bool = False, teacher: Model | None = None,
) -> Setup:
    """Shapes and shardings of a run, without allocating anything.

    `anchored` keeps the base's parameters though there is no `l2_to_base`; `teacher` has shapes for
    parameters.

    Raises:
      UserError: a parameter that the mesh cannot cut evenly, or an optimizer that is to lie where
        the devices have no access.
    """
    make = partial(Transformer, config=model, compute=compute)
    structure, specs = abstract(make)
    check_divisible(specs, compute.sharding)
    trained = trained_params(specs, model.adapter)
    ours = parted(specs, trained)[0]
    transformation, schedule = make_optimizer(optimizer, steps, ours)

    def initial(key: jax.Array) -> TrainState:
        return _start(split(make(key))[1], trained, transformation, keeps_base)

    keeps_base = anchored or l2_to_base > 0
    shapes = jax.eval_shape(initial, jax.random.key(0))
    params, frozen = parted(param_shardings(specs, compute.sharding), trained)
    replicated = compute.sharding.replicated()
    opt_state = _optimizer_shardings(shapes.opt_state, ours, params, replicated)
    if optimizer.placement == "host":
        check_host_memory(
            compute.sharding, "optimizer.placement='host'", "optimizer.placement='device'"
        )
        opt_state = jax.tree.map(_on_host, opt_state, shapes.opt_state)
    reference = params if keeps_base else {}
    shardings = TrainState(replicated, replicated, params, opt_state, frozen, reference)
    if teacher is not None:
        shapes = shapes._replace(teacher=teacher.params)
        shardings = shardings._replace(teacher=jax.tree.map(lambda s: s.sharding, teacher.params))
    return Setup(
        model, compute, structure, specs, trained, transformation, schedule,
        optimizer.max_grad_norm, l2_to_base, shapes, shardings, teacher,
    )


def init_state(setup: Setup, seed: int, params: Params | None = None) -> TrainState:
    """A fresh state, computed on the devices already in its shards.

    `params`, all of the model's, are used instead of new ones when given. A teacher's are not in it
    yet.
    """
    keeps_base, shardings = bool(setup.shapes.reference), setup.shardings._replace(teacher=None)

    def fresh(key: jax.Array) -> TrainState:
        new = split(Transformer(key, setup.model, setup.compute))[1]
        return _start(new, setup.trained, setup.optimizer, keeps_base)

    def start(params: Params) -> TrainState:
        return _start(params, setup.trained, setup.optimizer, keeps_base)

    options = quick_options(setup.compute.sharding.mesh.devices.flat[0].platform)
    if params is None:
        return jax.jit(fresh, out_shardings=shardings, compiler_options=options)(
            jax.random.key(seed)
        )
    # What stays as it is takes no part: a second copy of a large base would not fit.
    ours, frozen = parted(params, setup.trained)
    started = jax.jit(start, out_shardings=shardings._replace(frozen={}))(ours)
    return started._replace(frozen=frozen)


def _start(
    params: Params, trained: Params, optimizer: optax.GradientTransformation, keeps_base: bool
) -> TrainState:
    ours, frozen = parted(params, trained)
    # a copy: the step takes over the memory of what it changes
    reference = jax.tree.map(jnp.copy, ours) if keeps_base else {}
    return TrainState(
        jnp.int32(0), jnp.bool_(True), ours, optimizer.init(ours), frozen, reference
    )


def parted(tree: Params, trained: Params) -> tuple[Params, Params]:
    """The leaves that train and the others, each as the nested dictionaries that hold any.

    `tree` may lack leaves of `trained`.
    """
    ours, others = {}, {}
    for name, node in tree.items():
        if not isinstance(node, dict):
            (ours if trained[name] else others)[name] = node
            continue
        for into, part in zip((ours, others), parted(node, trained[name]), strict=True):
            if part:
                into[name] = part
    return ours, others


def merged(first: Params, second: Params) -> Params:
    """The tree whose leaves are those of both, which share none."""
    tree = dict(first)
    for name, node in second.items():
        tree[name] = merged(tree[name], node) if name in tree else node
    return tree


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
