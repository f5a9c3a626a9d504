"""Names of slices: libtpu's grids of chips, Cloud's names that count cores or chips, GPU hosts.

  v5p:4x4x8    a grid of 128 chips          v5p-256       the same: Cloud counts TensorCores of
  v6e-256      256 chips: v5e and v6e count chips         v4, v5p and TPU7x, two a chip
  4xv5p-2048   four slices of 1024 chips    h200:8, h200:16x8   GPUs; 16 hosts of 8

Valid grids are Google's tables (cloud.google.com/tpu/docs/v5e, v6e, v4, v5p, tpu7x): v5e and v6e
up to 16x16; v4, v5p and TPU7x parts of a 4x4x4 cube, or cubes side by side with sides that grow.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass

from jaxllm.core.errors import UserError
from jaxllm.plan.chips import CHIPS, Chip, find_chip

FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
CUBE_PARTS = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
LARGEST = {"v4": 4096, "v5p": 6144, "tpu7x": 9216}  # chips that one slice can have


@dataclass(frozen=True)
class Slice:
    """Chips that are rented together: `count` slices of `grid`, joined by the network (DCN)."""

    chip: Chip
    grid: tuple[int, ...]  # chips along each dimension; GPUs: (hosts, GPUs of a host)
    count: int = 1
    note: str = ""  # how a name was read that counts otherwise

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.count * math.prod(self.grid)

    @property
    def devices(self) -> int:
        """jax devices of all slices: what the mesh is made of."""
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        """Machines of all slices."""
        return self.count * max(1, math.prod(self.grid) // self.chip.host_chips)

    @property
    def name(self) -> str:
        """Such as v5p:4x4x8, or 4xv5p:8x8x16."""
        return f"{self.count}x{self.one}" if self.count > 1 else self.one

    @property
    def one(self) -> str:
        """The name of one of the slices, as libtpu calls its topology."""
        return f"{self.chip.name}:{'x'.join(map(str, self.grid))}"


def parse_slice(name: str, field: str = "--topology") -> Slice:
    """The slice of a name; see the top of this file.

    Raises:
      UserError: no such chip or slice, with the nearest that there are.
    """
    match = re.fullmatch(r"(?:(\d+)x)?([a-zA-Z][a-zA-Z0-9]*)(?:([:-])([\dx]+))?", name.strip())
    if not match:
        raise UserError(
            f"{field}={name!r} is no slice. Write a chip and its grid, such as v5p:4x4x8, Cloud's "
            "name, such as v6e-256, several slices, such as 4xv5p-1024, or GPUs, such as h200:8."
        )
    chip, size = find_chip(match[2], field), match[4]
    count = int(match[1] or 1)
    if count < 1:
        raise UserError(f"{field}={name!r}: there must be at least 1 slice.")
    if not size:
        raise _invalid(field, name, chip, 0, "says no size")
    numbers = tuple(int(n) for n in size.split("x") if n)
    if not chip.torus:
        return _gpus(name, chip, numbers, count, field)
    if len(numbers) == 1:
        return _counted(name, chip, numbers[0], match[3], count, field)
    grid = tuple(sorted(numbers)) if tuple(sorted(numbers)) in grids(chip) else numbers
    if grid not in grids(chip):
        raise _invalid(field, name, chip, math.prod(numbers), "has no such grid")
    return Slice(chip, grid, count)


@functools.cache
def grids(chip: Chip) -> tuple[tuple[int, ...], ...]:
    """Every grid of a TPU's slices, by number of chips, of equal ones the most compact first."""
    if chip.torus == 2:
        return FLAT
    most = LARGEST[chip.name]
    sides = range(4, 65, 4)
    cubes = [
        (a, b, c) for a in sides for b in sides for c in sides
        if a <= b <= c and a * b * c <= most
    ]
    return (*CUBE_PARTS, *sorted(cubes, key=lambda g: (math.prod(g), sum(g))))


def slices(chip: Chip) -> list[Slice]:
    """The slices of a chip from the smallest, one for each number of chips."""
    if not chip.torus:
        return [Slice(chip, (1, n)) for n in (1, 2, 4, 8)] + [
            Slice(chip, (2**k, 8)) for k in range(1, 11)
        ]
    found: dict[int, Slice] = {}
    for grid in grids(chip):
        found.setdefault(math.prod(grid), Slice(chip, grid))
    return [found[n] for n in sorted(found)]


def _counted(name: str, chip: Chip, number: int, sign: str, count: int, field: str) -> Slice:
    """A slice by a number: cores or chips as Cloud counts (v5p-128), chips after a colon."""
    cores = chip.cores if sign == "-" else 1
    chips, rest = divmod(number, cores)
    fitting = [g for g in grids(chip) if math.prod(g) == chips]
    if rest or not fitting:
        counted = f"counts TensorCores, so it means {number / cores:g} chips" if cores > 1 else ""
        raise _invalid(field, name, chip, chips, counted or f"means {chips} chips")
    note = ""
    if cores > 1:
        note = (
            f"{name} counts TensorCores, {cores} a chip: {chips} chips, "
            f"{chip.name}:{'x'.join(map(str, fitting[0]))}"
        )
    return Slice(chip, fitting[0], count, note)


def _gpus(name: str, chip: Chip, numbers: tuple[int, ...], count: int, field: str) -> Slice:
    per_host = chip.host_chips
    hosts, gpus = (1, numbers[0]) if len(numbers) == 1 else numbers[:2]
    if len(numbers) == 1 and gpus > per_host and gpus % per_host == 0:
        hosts, gpus = gpus // per_host, per_host
    if len(numbers) > 2 or not 1 <= gpus <= per_host or hosts < 1:
        below = max(numbers[0] // per_host, 1)
        raise UserError(
            f"{field}={name!r}: a host has {per_host} {chip.name.upper()}s. Name hosts x GPUs of "
            f"a host, such as {chip.name}:{below}x{per_host} or {chip.name}:{below + 1}x{per_host}."
        )
    return Slice(chip, (hosts * count, gpus))


def _invalid(field: str, name: str, chip: Chip, chips: int, reason: str) -> UserError:
    known = slices(chip) if chip.torus else []
    near = sorted(known, key=lambda s: abs(math.log((chips or s.chips) / s.chips)))[:3]
    if not chip.torus:
        return UserError(f"{field}={name!r} {reason}. Name GPUs, such as {chip.name}:8.")
    words = ", ".join(
        f"{s.one} ({s.chips} chip{'s' * (s.chips > 1)}, in Cloud {cloud_name(s)})"
        for s in sorted(near, key=lambda s: s.chips)
    )
    return UserError(f"{field}={name!r} {reason}. The nearest slices of {chip.name}: {words}.")


def cloud_name(one: Slice) -> str:
    """What Cloud calls a slice, such as v5p-256 or v5litepod-64."""
    if not one.chip.torus:
        return one.one
    prefix = "v5litepod" if one.chip.name == "v5e" else one.chip.name
    return f"{prefix}-{math.prod(one.grid) * one.chip.cores}"


def every_chip() -> list[str]:
    """The names of the chips."""
    return list(CHIPS)
