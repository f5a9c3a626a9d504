"""The sizes of the mesh axes of a recipe on so many devices. Without jax: `plan` asks too."""

from __future__ import annotations

import math

from jaxllm.core.config import MeshConfig
from jaxllm.core.errors import UserError

# Outermost first: neighbours in this order are neighbours on the interconnect, so the axes that
# talk most (tensor, context) come last. Between the slices of `dcn` there is only a network.
MESH_AXES = ("dcn", "stage", "data", "fsdp", "expert", "context", "tensor")


def axis_sizes(config: MeshConfig, count: int, cpu: bool = False) -> dict[str, int]:
    """Devices along each of MESH_AXES, the -1 filled in; they multiply to `count`.

    On a CPU, which can pretend to be several devices, the error says how.

    Raises:
      UserError: the axes cannot multiply to the devices.
    """
    sizes = {name: getattr(config, name) for name in MESH_AXES}
    bad = [name for name, size in sizes.items() if size < 1 and size != -1]
    free = [name for name, size in sizes.items() if size == -1]
    if bad:
        raise UserError(f"mesh.{bad[0]}={sizes[bad[0]]} must be at least 1, or -1 for the rest.")
    if len(free) > 1:
        raise UserError(f"Only one mesh axis may be -1; these are: {', '.join(free)}.")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if count % fixed or (not free and fixed != count):
        raise _mismatch(sizes, fixed, count, cpu)
    return {name: count // fixed if size == -1 else size for name, size in sizes.items()}


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _mismatch(sizes: dict[str, int], fixed: int, count: int, cpu: bool) -> UserError:
    written = " x ".join(f"{name} {size}" for name, size in sizes.items() if size != 1)
    choices = divisors(count)
    near = [n for n in choices if n <= fixed][-1]
    fix = (
        f"Choose axes that multiply to {count}: each one of {', '.join(map(str, choices))}; the "
        f"nearest product that divides it is {near}, leaving {count // near} for an axis of -1."
    )
    if count == 1:
        fix = "Leave the axes at 1."
    if cpu and fixed > count:
        fix = (
            f"{fix.rstrip('.')}, or for a trial set the environment variable "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={fixed}."
        )
    return UserError(
        f"The mesh ({written or 'all axes 1'}) needs {fixed} devices (or a multiple, with an axis "
        f"of -1), and there {'is' if count == 1 else 'are'} {count}. {fix}"
    )
