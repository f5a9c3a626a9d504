"""The device mesh and the one table that maps logical axes to it.

Models name what an axis means ("embed", "heads", "batch"); only this file knows that "embed" lies
along `fsdp`. An axis without a rule and two axes of one array on the same mesh axis are errors,
on a single CPU device too, so that tests see what a pod would.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxllm.core.config import MeshConfig
from jaxllm.core.errors import UserError, nearest

# Outermost first: neighbours in this order are neighbours on the interconnect, so the axes that
# talk most (tensor, context) come last.
MESH_AXES = ("stage", "data", "fsdp", "expert", "context", "tensor")

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
    ("batch", ("data", "fsdp", "expert")),
    ("sequence", ("context",)),
    ("tokens", ("data", "fsdp", "expert", "context")),  # batch and sequence as one
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
        """The sum over devices of `function` of their tokens' part of the arguments.

        Each device keeps its share of the sum, whose dimensions are `axes`: a reduce-scatter over
        `fsdp` by name, where the partitioner would choose an all-reduce or loops of permutes. What
        other devices share of the batch is added up after it, in the smaller shares.
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
            rest = tuple(name for name in names if name not in cuts)
            return jax.lax.psum(y, rest) if rest else y

        return jax.shard_map(
            on_device, mesh=self.mesh, axis_names=set(names), check_vma=False,
            in_specs=tuple(_only(self.spec(axes), names) for _, axes in args),
            out_specs=_only(spec, names),
        )(*(x for x, _ in args))

    def parts(self, axis: str) -> int:
        """Into how many parts the logical axis is cut."""
        return math.prod(self.mesh.shape[name] for name in dict(self.rules)[axis])

    def replicated(self) -> NamedSharding:
        """Every device holds the whole array."""
        return NamedSharding(self.mesh, PartitionSpec())


def _only(spec: PartitionSpec, names: Sequence[str]) -> PartitionSpec:
    """The part of `spec` that is about these mesh axes."""
    entries = []
    for entry in spec:
        kept = tuple(n for n in (entry if isinstance(entry, tuple) else (entry,)) if n in names)
        entries.append(kept or None)
    return PartitionSpec(*entries)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `config` over `devices` (all of them by default).

    Raises:
      UserError: the axes do not multiply to the device count.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {name: getattr(config, name) for name in MESH_AXES}
    shape = _mesh_shape(sizes, len(devices), devices[0].platform == "cpu")
    auto = (AxisType.Auto,) * len(MESH_AXES)
    if devices == jax.devices():  # jax then orders the devices along the interconnect
        return jax.make_mesh(shape, MESH_AXES, axis_types=auto)
    return Mesh(np.array(devices).reshape(shape), MESH_AXES, axis_types=auto)


def single_device() -> Sharding:
    """The sharding of everything on the first device."""
    return Sharding(make_mesh(MeshConfig(), jax.devices()[:1]))


def check_batch(sharding: Sharding, batch_size: int, flag: str, microbatches: int = 1) -> None:
    """Refuses a batch that the devices cannot share evenly, in each of its microbatches.

    Raises:
      UserError: with the nearest sizes that divide.
    """
    groups = sharding.parts("batch")
    parts = groups * microbatches
    if batch_size % parts:
        below, above = batch_size // parts * parts, (batch_size // parts + 1) * parts
        choices = " or ".join(str(n) for n in (below, above) if n)
        times = f", in each of {microbatches} microbatches" if microbatches > 1 else ""
        raise UserError(
            f"{flag}={batch_size} cannot be shared by {groups} groups of devices (mesh.data x "
            f"mesh.fsdp x mesh.expert = {groups}){times}. Use {flag}={choices}."
        )


def _mesh_shape(sizes: dict[str, int], count: int, cpu: bool) -> tuple[int, ...]:
    bad = [name for name, size in sizes.items() if size < 1 and size != -1]
    free = [name for name, size in sizes.items() if size == -1]
    if bad:
        raise UserError(f"mesh.{bad[0]}={sizes[bad[0]]} must be at least 1, or -1 for the rest.")
    if len(free) > 1:
        raise UserError(f"Only one mesh axis may be -1; these are: {', '.join(free)}.")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    written = " x ".join(f"{name} {size}" for name, size in sizes.items() if size != 1)
    if count % fixed or (not free and fixed != count):
        divisors = ", ".join(str(d) for d in range(1, count + 1) if count % d == 0)
        fix = f"Choose axes that multiply to {count}: each one of {divisors}."
        if count == 1:
            fix = "Leave the axes at 1."
        if cpu and fixed > count:
            fix = (
                f"{fix.rstrip('.')}, or for a trial set the environment variable "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={fixed}."
            )
        raise UserError(
            f"The mesh ({written or 'all axes 1'}) needs {fixed} devices (or a multiple, with an "
            f"axis of -1), and there {'is' if count == 1 else 'are'} {count}. {fix}"
        )
    return tuple(count // fixed if size == -1 else size for size in sizes.values())
