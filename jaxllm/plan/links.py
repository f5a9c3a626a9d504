"""The bandwidth of collectives along each axis of a mesh that is laid on a slice.

Collectives on a torus: Austin et al. 2025 ("How to Scale Your Model"), chapter 3.
"""

from __future__ import annotations

import functools
import itertools
import math

from jaxllm.plan.slices import Slice
from jaxllm.plan.workload import Mesh

DIE_LINK = 6.0  # links' worth between the devices of a TPU7x chip (its page, "dual-chiplet")


@functools.lru_cache(maxsize=4096)
def link_rates(where: Slice, mesh: Mesh) -> dict[str, float]:
    """Bytes/s into a device, by mesh axis, of a collective along that axis.

    Axes take whole sides of the grid where they fit, the innermost first; an axis that takes part
    of a side has one line of links. An axis that crosses slices has the slower of both: each of its
    chips in a slice brings in a part from the others.
    """
    chip = where.chip
    if not chip.torus:
        return _gpu_links(where, mesh)
    sides = [(side, _ring(chip, side)) for side in where.grid if side > 1]
    if chip.devices > 1:
        sides.insert(0, (chip.devices, DIE_LINK * chip.ici_link))
    found = {}
    for axis in ("tensor", "context", "fsdp", "data", "stage"):
        size = mesh.data * mesh.expert if axis == "data" else getattr(mesh, axis)
        crosses = axis == crossing(where, mesh)
        if crosses:
            size //= where.count
        found[axis] = _take(sides, size, chip.ici_link) / chip.devices
        if crosses and axis != "data":  # all chips of the axis in a slice share the traffic
            network = chip.dcn / chip.devices * size * where.count / (where.count - 1)
            found[axis] = min(found[axis], network)
    return found


def crossing(where: Slice, mesh: Mesh) -> str:
    """The mesh axis that runs across slices: the one that can and talks least."""
    if where.count == 1:
        return ""
    axes = (("data", mesh.data * mesh.expert), ("stage", mesh.stage), ("fsdp", mesh.fsdp))
    return next((axis for axis, size in axes if size % where.count == 0), "fsdp")


def _ring(chip, side: int) -> float:
    """Both directions of a ring, or of a line one."""
    return chip.ici_link * (2 if side % chip.wrap == 0 else 1)


def _take(sides: list[tuple[int, float]], size: int, link: float) -> float:
    """The bandwidth of an axis of this size; takes its sides away from `sides`."""
    if size == 1:
        return math.inf
    for count in range(1, len(sides) + 1):
        for chosen in itertools.combinations(sides, count):
            if math.prod(side for side, _ in chosen) == size:
                for side in chosen:
                    sides.remove(side)
                return sum(rate for _, rate in chosen)
    lines = 0
    for index in range(len(sides) - 1, -1, -1):
        side, _ = sides[index]
        part = math.gcd(side, size)
        if part > 1:
            size //= part
            lines += 1
            sides[index] = (side // part, link)
    return link * max(lines, 1)


def _gpu_links(where: Slice, mesh: Mesh) -> dict[str, float]:
    chip, inner, found = where.chip, 1, {}
    for axis in ("tensor", "context", "fsdp", "data", "stage"):
        size = mesh.data * mesh.expert if axis == "data" else getattr(mesh, axis)
        per_host = where.grid[1]
        if inner * size <= per_host:
            found[axis] = chip.ici_link
        else:  # the members of a host share their network cards
            members = max(per_host // inner, 1)
            found[axis] = min(chip.ici_link, chip.dcn * members)
        inner *= size
    return found
