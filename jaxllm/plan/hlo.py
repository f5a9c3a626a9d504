"""Collectives of a compiled program, read from its text after partitioning.

The final text of a TPU program hides them (a reduce-scatter appears as an all-reduce, an all-gather
as an update of slices), and a loop's body stands there once. So they are read right after the
partitioner, and what is in a loop is counted as often as the loop runs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2, "s16": 2, "u16": 2,
    "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8,
}
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_CALLS = re.compile(r"(?:to_apply|calls|body)=%?([\w.\-]+)")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind in a step: how many run, and bytes of their results on a device."""

    count: int
    bytes: float


def collectives(text: str) -> dict[str, Traffic]:
    """By kind, of the program with this HLO text."""
    bodies, entry = _computations(text)
    found: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])

    def walk(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            if match := _COLLECTIVE.search(line):
                found[match[2]][0] += times
                found[match[2]][1] += times * _size(match[1])
                continue
            if match := _WHILE.search(line):
                walk(match[2], times * _trips(line, bodies.get(match[1], ())))
                continue
            for called in _CALLS.findall(line):
                walk(called, times)

    walk(entry, 1)
    return {kind: Traffic(int(n), size) for kind, (n, size) in sorted(found.items())}


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if match := _HEAD.match(line):
            name = match[1]
            bodies[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _trips(line: str, condition: Iterator[str]) -> int:
    """How often a loop runs: as its text says, or the constant that its condition compares with."""
    if match := _TRIPS.search(line):
        return int(match[1])
    numbers = [int(n) for n in re.findall(r"constant\((\d+)\)", "\n".join(condition))]
    return max(numbers, default=1)


def _size(shapes: str) -> float:
    """Bytes of a result; of a tuple (an asynchronous start) its last array's."""
    arrays = re.findall(r"([a-z]+\d+|pred)\[([\d,]*)\]", shapes)
    sizes = []
    for kind, dims in arrays:
        size = BYTES.get(kind, 0)
        for n in filter(None, dims.split(",")):
            size *= int(n)
        sizes.append(size)
    return sum(sizes) if not shapes.startswith("((") else sizes[-1]
