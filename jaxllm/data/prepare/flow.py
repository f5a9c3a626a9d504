"""What a stage let through and what it dropped, counted so that counts of all units add up."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxllm.data.manifest import Amount, StageFlow
from jaxllm.data.prepare.documents import Document
from jaxllm.data.prepare.split import hash_fraction

Size = tuple[int, int]  # characters, bytes
SAMPLES = 8  # documents shown for a reason
SAMPLE_CHARACTERS = 1000  # of each
SOURCES = 100  # that a unit and a corpus tell apart; smaller ones are counted together
OTHER_SOURCES = "(others)"


def size_of(text: str) -> Size:
    """Characters and bytes of UTF-8."""
    return len(text), len(text) if text.isascii() else len(text.encode())


@dataclass
class Sum:
    """Documents, characters and bytes, added up."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0

    def add(self, size: Size) -> None:
        """Counts one document."""
        self.documents += 1
        self.characters += size[0]
        self.bytes += size[1]

    def merge(self, counts: list[int]) -> None:
        """Adds another sum's `counts`."""
        self.documents += counts[0]
        self.characters += counts[1]
        self.bytes += counts[2]

    @property
    def counts(self) -> list[int]:
        """As JSON keeps it."""
        return [self.documents, self.characters, self.bytes]


@dataclass
class Row:
    """The counts of one stage."""

    stage: str
    before: Sum = field(default_factory=Sum)
    after: Sum = field(default_factory=Sum)
    dropped: dict[str, Sum] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, size: Size) -> None:
        """Counts a document that the stage leaves out."""
        self.dropped.setdefault(reason, Sum()).add(size)

    def change(self, changes: Mapping[str, int]) -> None:
        """Counts what the stage changed in a document."""
        for name, number in changes.items():
            self.changes[name] = self.changes.get(name, 0) + number

    def to_json(self) -> dict[str, Any]:
        """What `merge` reads."""
        return {
            "stage": self.stage, "before": self.before.counts, "after": self.after.counts,
            "dropped": {reason: count.counts for reason, count in self.dropped.items()},
            "changes": self.changes,
        }

    def merge(self, row: Mapping[str, Any]) -> None:
        """Adds the counts of another unit."""
        self.before.merge(row["before"])
        self.after.merge(row["after"])
        for reason, counts in row["dropped"].items():
            self.dropped.setdefault(reason, Sum()).merge(counts)
        self.change(row["changes"])

    def finish(self) -> StageFlow:
        """As the manifest has it, in an order that does not depend on that of the units."""
        return StageFlow(
            self.stage, Amount(*self.before.counts), Amount(*self.after.counts),
            {reason: Amount(*self.dropped[reason].counts) for reason in sorted(self.dropped)},
            dict(sorted(self.changes.items())),
        )


def merge_rows(units: Iterable[list[dict[str, Any]]]) -> tuple[StageFlow, ...]:
    """The rows of all units, which have the same stages, as one."""
    rows: dict[str, Row] = {}
    for unit in units:
        for row in unit:
            rows.setdefault(row["stage"], Row(row["stage"])).merge(row)
    return tuple(row.finish() for row in rows.values())


class Samples:
    """A few documents for each stage and reason, chosen by a hash of their ids."""

    def __init__(self):
        self._chosen: dict[str, list[tuple[float, str]]] = {}  # heaps of (-hash, line of JSON)

    def add(self, stage: str, reason: str, document: Document) -> None:
        """Offers a document."""
        rank = -hash_fraction(document.id, "sample")
        heap = self._chosen.setdefault(f"{stage} {reason}", [])
        if len(heap) < SAMPLES or rank >= heap[0][0]:
            self._push(heap, rank, json.dumps({
                "stage": stage, "reason": reason, "id": document.id, "source": document.source,
                "characters": len(document.text), "text": document.text[:SAMPLE_CHARACTERS],
            }, ensure_ascii=False))

    def merge(self, chosen: Mapping[str, list[list]]) -> None:
        """Offers what another unit chose."""
        for key, entries in chosen.items():
            for rank, line in entries:
                self._push(self._chosen.setdefault(key, []), rank, line)

    def to_json(self) -> dict[str, list[tuple[float, str]]]:
        """What `merge` reads."""
        return {key: sorted(self._chosen[key], reverse=True) for key in sorted(self._chosen)}

    def lines(self) -> list[str]:
        """A line of JSON for each chosen document, by stage and reason."""
        return [line for entries in self.to_json().values() for _, line in entries]

    def _push(self, heap: list[tuple[float, str]], rank: float, line: str) -> None:
        heapq.heappush(heap, (rank, line))
        if len(heap) > SAMPLES:
            heapq.heappop(heap)


def largest(sources: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """The SOURCES largest by bytes, and the others as one."""
    names = sorted(sources, key=lambda name: (name == OTHER_SOURCES, -sources[name][2], name))
    kept = {name: sources[name] for name in names[:SOURCES] if name != OTHER_SOURCES}
    rest = Sum()
    for name in names:
        if name not in kept:
            rest.merge(sources[name])
    if rest.documents:
        kept[OTHER_SOURCES] = rest.counts
    return kept
