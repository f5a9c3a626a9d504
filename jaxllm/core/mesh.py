"""The device mesh and the one table that maps logical axes to it.

Models name what an axis means ("embed", "heads", "batch"); only this file knows that "embed" lies
along `fsdp`. An axis without a rule and two axes of one array on the same mesh axis are errors,
on a single CPU device too, so that tests see what a pod would.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxllm.core.axes import MESH_AXES, axis_sizes
from jaxllm.core.config import MeshConfig
from jaxllm.core.errors import UserError, nearest

Axes = Sequence[str | None]
Rules = tuple[tuple[str, tuple[str, ...]], ...]

RULES: Rules = (
    # parameters
    ("layers", ("stage",)),
    ("embed", ("fsdp",)),
    ("vocab", ("tensor",)),
    ("heads", ("tensor",)),
    ("kv_heads", ("tensor",)),
    ("head_dim", ()),
    ("mlp", ("tensor",)),
    ("norm", ()),
    ("position", ()),
    ("bucket", ()),  # of a relative bias
    ("type", ()),  # of tokens
    ("label", ()),
    ("dense", ()),  # outputs of a head's dense layer
    # activations
    ("batch", ("dcn", "data", "fsdp", "expert")),
    ("sequence", ("context",)),
    ("stream", ("context", "tensor")),  # the sequence, between sublayers
    ("tokens", ("dcn", "data", "fsdp", "expert", "context")),  # batch and sequence as one
    ("act_embed", ()),
    ("act_heads", ("tensor",)),
    ("act_mlp", ("tensor",)),
    ("act_vocab", ("tensor",)),
    ("cache", ()),
)


@dataclasses.dataclass(frozen=True)
class Sharding:
    """A mesh with its rules: turns logical axes into shardings and constraints."""

    mesh: Mesh
    rules: Rules = RULES
    microbatches: int = 0  # of a pipeline; 0: four a stage, or as many as the rows allow
    repeats: int = 1  # how often a microbatch goes round the stages

    def spec(self, axes: Axes) -> PartitionSpec:
        """The PartitionSpec of an array whose dimensions are `axes` (None: not sharded).

        Raises:
          ValueError: an axis without a rule, or two dimensions on one mesh axis.
        """
        table, used, entries = dict(self.rules), set(), []
        for axis in axes:
            if axis is None:
                entries.append(None)
                continue
            if axis not in table:
                raise ValueError(f"No sharding rule for axis {axis!r}. {nearest(axis, table)}")
            names = tuple(n for n in table[axis] if self.mesh.shape[n] > 1)
            if clash := used & set(names):
                raise ValueError(f"Axes {tuple(axes)} put two dimensions on mesh axis {clash}.")
            used |= set(names)
            entries.append(names[0] if len(names) == 1 else names or None)
        return PartitionSpec(*entries)

    def named(self, axes: Axes) -> NamedSharding:
        """The NamedSharding of an array with these logical axes."""
        return NamedSharding(self.mesh, self.spec(axes))

    def constrain(self, x: jax.Array, *axes: str | None) -> jax.Array:
        """Pins the sharding of an intermediate value inside jit."""
        if x.ndim != len(axes):
            raise ValueError(f"{x.ndim} dimensions were given {len(axes)} axes: {axes}.")
        return jax.lax.with_sharding_constraint(x, self.named(axes))

    def gathered(self, axes: Axes) -> Axes:
        """The axes of a parameter as it is used: whole along what is cut only to keep it."""
        table = dict(self.rules)
        return tuple(None if axis and "fsdp" in table[axis] else axis for axis in axes)

    def by_device(self, x_BT: jax.Array) -> jax.Array:
        """[B, T, …] as [P, tokens of a device, …]: batch and sequence cut as the mesh cuts them."""
        rows, lengths = (self.parts(axis) for axis in ("batch", "sequence"))
        B, T, *rest = x_BT.shape
        x = x_BT.reshape(rows, B // rows, lengths, T // lengths, *rest).swapaxes(1, 2)
        x = x.reshape(rows * lengths, -1, *rest)
        return self.constrain(x, "tokens", *(None,) * (x.ndim - 1))

    def by_row(self, x_PN: jax.Array, B: int) -> jax.Array:
        """The inverse of `by_device` for `B` rows."""
        rows, lengths = (self.parts(axis) for axis in ("batch", "sequence"))
        rest = x_PN.shape[2:]
        x = x_PN.reshape(rows, lengths, B // rows, -1, *rest).swapaxes(1, 2)
        return self.constrain(x.reshape(B, -1, *rest), "batch", "sequence", *(None,) * len(rest))

    def summed(self, function: Callable, *args: tuple[jax.Array, Axes], axes: Axes) -> jax.Array:
        """The sum over devices of `function` of their part of the arguments.

        A device has its tokens, and its share along whatever else the arguments' axes name.

        Each device keeps its share of the sum, whose dimensions are `axes`: a reduce-scatter over
        `fsdp` by name, where the partitioner would choose an all-reduce or loops of permutes. What
        other devices share of the batch is added up after it, in the smaller shares, and what other
        slices have last of all.
        """
        names = tuple(n for n in dict(self.rules)["tokens"] if self.mesh.shape[n] > 1)
        if not names:
            return function(*(x for x, _ in args))
        spec = self.spec(axes)
        cuts = {
            name: place for place, entry in enumerate(spec)
            for name in (entry if isinstance(entry, tuple) else (entry,)) if name in names
        }

        def on_device(*parts):
            y = function(*parts)
            for name, place in cuts.items():
                y = jax.lax.psum_scatter(y, name, scatter_dimension=place, tiled=True)
            for rest in _near_then_far(name for name in names if name not in cuts):
                y = jax.lax.psum(y, rest)
            return y

        # Manual along all axes, those of `axes` and of a pipeline's stages too: the partitioner
        # gathers what a collective inside is given along any axis that is left to it.
        return jax.shard_map(
            on_device, mesh=self.mesh, check_vma=False, out_specs=spec,
            in_specs=tuple(self.spec(axes) for _, axes in args),
        )(*(x for x, _ in args))

    def stream(self, length: int) -> str:
        """The axis of a sequence of `length` tokens between sublayers: "stream" if it divides."""
        return "sequence" if length % self.parts("stream") else "stream"

    def pipeline(self, rows: int) -> int:
        """Into how many microbatches a pipeline cuts so many rows; 0: it cannot, or there is none.
        """
        stages, groups = self.parts("layers"), self.parts("batch")
        wanted = (self.microbatches,) if self.microbatches else range(4 * stages, 0, -stages)
        return next((n for n in wanted if stages > 1 and rows % (n * groups) == 0), 0)

    def outside(self, rows: int) -> Sharding:
        """The sharding of what comes before and after a pipeline: its stages share the rows too."""
        stages = self.parts("layers")
        if stages == 1 or rows % (stages * self.parts("batch")):
            return self
        batch = (*dict(self.rules)["batch"], "stage")
        changed = {"batch": batch, "tokens": (*batch, *dict(self.rules)["sequence"])}
        rules = tuple((name, changed.get(name, axes)) for name, axes in self.rules)
        return dataclasses.replace(self, rules=rules)

    def parts(self, axis: str) -> int:
        """Into how many parts the logical axis is cut."""
        return math.prod(self.mesh.shape[name] for name in dict(self.rules)[axis])

    @property
    def chip(self) -> str:
        """The kind of the mesh's devices, such as "TPU v5p" or "cpu"."""
        return self.mesh.devices.flat[0].device_kind

    def replicated(self) -> NamedSharding:
        """Every device holds the whole array."""
        return NamedSharding(self.mesh, PartitionSpec())


def _near_then_far(names: Iterable[str]) -> list[tuple[str, ...]]:
    """The axes within a slice, and apart from them the one between slices."""
    names = tuple(names)
    near, far = (tuple(n for n in names if (n == "dcn") == is_far) for is_far in (False, True))
    return [group for group in (near, far) if group]


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `config` over `devices` (all of them by default).

    Each index of the axis "dcn" is one slice of TPUs, joined by the interconnect. Devices that say
    nothing of slices are shared out in their order.

    Raises:
      UserError: the axes do not multiply to the device count, or `dcn` is not the slices' number.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = tuple(axis_sizes(config, len(devices), devices[0].platform == "cpu").values())
    auto = (AxisType.Auto,) * len(MESH_AXES)
    slices = _slices(devices)
    if slices:  # in one order here and in a compile without the devices
        _check_slices(slices, shape[0])
        each = [_ordered(part, shape[1:]) for part in slices]
        return Mesh(np.stack(each), MESH_AXES, axis_types=auto)
    if devices == jax.devices():  # jax then orders the devices along the interconnect
        return jax.make_mesh(shape, MESH_AXES, axis_types=auto)
    return Mesh(np.array(devices).reshape(shape), MESH_AXES, axis_types=auto)


def _slices(devices: list[jax.Device]) -> list[list[jax.Device]]:
    """TPU devices by slice, in order of its index; none where the devices know of no slices."""
    found: dict[int, list[jax.Device]] = {}
    for device in devices:
        index = getattr(device, "slice_index", None) or 0
        if device.platform != "tpu":
            return []
        found.setdefault(index, []).append(device)
    return [found[index] for index in sorted(found)]


def _check_slices(slices: list[list[jax.Device]], dcn: int) -> None:
    counts = [len(part) for part in slices]
    if len(set(counts)) > 1:
        raise UserError(
            f"The slices have {', '.join(map(str, counts))} devices: a mesh needs slices of one "
            f"size. Use slices of {min(counts)}."
        )
    if len(slices) != dcn:
        raise UserError(
            f"mesh.dcn={dcn} is not the number of slices: the {sum(counts)} devices lie on "
            f"{len(slices)}, {counts[0]} on each. Set mesh.dcn={len(slices)}, the other axes "
            f"multiplying to {counts[0]}."
        )


def _ordered(devices: list[jax.Device], shape: tuple[int, ...]) -> np.ndarray:
    """The devices of one slice laid out along its interconnect."""
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def single_device() -> Sharding:
    """The sharding of everything on the first device."""
    return Sharding(make_mesh(MeshConfig(), jax.devices()[:1]))


def make_sharding(
    config: MeshConfig, devices: Sequence[jax.Device] | None = None
) -> Sharding:
    """The sharding of `config` over `devices` (all of them by default).

    Raises:
      UserError: see `make_mesh`; microbatches that the stages cannot share, or no pipeline at all.
    """
    sharding = Sharding(
        make_mesh(config, devices), microbatches=config.microbatches, repeats=config.repeats
    )
    stages = sharding.parts("layers")
    for name, least in (("microbatches", 0), ("repeats", 1)):
        value = getattr(config, name)
        if value < least or (value > least and stages == 1):
            fix = f"Set it to {least}" + (", or mesh.stage above 1." if value > least else ".")
            raise UserError(f"mesh.{name}={value} has no meaning with mesh.stage={stages}. {fix}")
    if config.microbatches % stages:
        near = sorted({max(config.microbatches // stages, 1) * stages,
                       (config.microbatches // stages + 1) * stages})
        raise UserError(
            f"mesh.microbatches={config.microbatches} cannot be shared by mesh.stage={stages}. "
            f"Use mesh.microbatches={' or '.join(map(str, near))}."
        )
    return sharding


def check_layers(sharding: Sharding, layers: int, group: int) -> None:
    """Refuses layers that the stages of a pipeline cannot share.

    `group` layers make one repetition of a pattern, and stay together.

    Raises:
      UserError: naming the nearest values that divide.
    """
    stages, repeats = sharding.parts("layers"), sharding.repeats
    whole = layers // group
    if stages == 1 or whole % (stages * repeats) == 0:
        return
    what = f"{whole} repetitions of {group} layers" if group > 1 else f"{layers} layers"
    name, value, total = ("stage", stages, whole)
    if whole % stages == 0:
        name, value, total = ("repeats", repeats, whole // stages)
    fits = [n for n in range(1, total + 1) if total % n == 0]
    near = [max(n for n in fits if n < value), *[n for n in fits if n > value][:1]]
    raise UserError(
        f"The {what} cannot be shared by mesh.stage={stages} x mesh.repeats={repeats}. Use "
        f"{' or '.join(f'mesh.{name}={n}' for n in near)}."
    )


def check_length(sharding: Sharding, lengths: Sequence[int]) -> None:
    """Refuses rows that the devices of `mesh.context` cannot share evenly; 0: there are none.

    Raises:
      UserError: with the nearest lengths that divide.
    """
    parts = sharding.parts("sequence")
    for length in lengths:
        if length % parts:
            below, above = length // parts * parts, (length // parts + 1) * parts
            choices = " or ".join(str(n) for n in (below, above) if n)
            raise UserError(
                f"mesh.context={parts} does not divide the rows' {length} tokens. Use "
                f"data.sequence_length (of targets data.target_length) {choices}."
            )


def check_batch(sharding: Sharding, batch_size: int, flag: str, microbatches: int = 1) -> None:
    """Refuses a batch that the devices cannot share evenly, in each of its microbatches.

    A pipeline cuts each of `microbatches` into its own, at least as many as it has stages.

    Raises:
      UserError: with the nearest sizes that divide.
    """
    groups = sharding.parts("batch")
    microbatches *= sharding.microbatches or sharding.parts("layers")
    parts = groups * microbatches
    if batch_size % parts:
        below, above = batch_size // parts * parts, (batch_size // parts + 1) * parts
        choices = " or ".join(str(n) for n in (below, above) if n)
        axes = " x ".join(
            f"mesh.{name}" for name in dict(sharding.rules)["batch"]
            if name != "dcn" or sharding.mesh.shape[name] > 1
        )
        times = f", in each of {microbatches} microbatches" if microbatches > 1 else ""
        raise UserError(
            f"{flag}={batch_size} cannot be shared by {groups} groups of devices ({axes} = "
            f"{groups}){times}. Use {flag}={choices}."
        )
