"""Exact duplicates: documents, and parts of documents, that the corpus holds already.

Texts are compared by the 128 bits of XXH3, among which a billion texts collide with a chance of
about 1e-21. The first of equal texts in the order of the corpus is kept. Hashes are written sorted,
with the places of BUCKETS ranges, so that a worker can take one range of all units.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from etils import epath

from jaxllm.core.errors import UserError, unknown
from jaxllm.data.prepare.duplicates import groups
from jaxllm.data.prepare.store import Arrays, write_arrays

PARTS = ("none", "line", "paragraph")
BUCKETS = 4096  # ranges of hashes that a file tells apart
ENTRIES = 2**21  # hashes that a worker compares at a time: about 150 MB
PARAGRAPH_END = re.compile(r"(?<=\n)(?=[ \t\r]*\n[^\n])")
GROUPS, MEMBERS = 8, 4  # shown of the groups of equal texts, and of one's documents
Group = tuple[int, list[tuple[int, int]]]  # its size; unit and document of the first ones
EMPTIED = "only_repeated_parts"


@dataclass(frozen=True)
class Settings:
    """Which repetitions are removed beside those of whole documents."""

    parts: str = "none"  # none | line | paragraph: parts that an earlier text holds are cut out
    min_characters: int = 60  # of such a part, white space around it left out; shorter ones stay


def check(settings: Settings) -> None:
    """Raises UserError for a value out of range, naming `exact.<field>`."""
    if settings.parts not in PARTS:
        raise unknown("exact.parts", settings.parts, PARTS)
    if settings.min_characters < 1:
        raise UserError(f"exact.min_characters={settings.min_characters} must be at least 1.")
    if settings.parts == "none" and settings.min_characters != Settings.min_characters:
        raise UserError(
            f"exact.min_characters={settings.min_characters} has no effect: exact.parts='none' "
            "removes whole documents only. Remove it, or set exact.parts='line' or 'paragraph'."
        )


def split_parts(text: str, parts: str) -> list[str]:
    """The lines or paragraphs of a text, which together are the text."""
    if parts == "line":
        return text.splitlines(keepends=True)
    return PARAGRAPH_END.split(text)


class Writer:
    """Collects the hashes of a unit's documents, or of their parts."""

    def __init__(self, settings: Settings, of_parts: bool):
        self._settings, self._of_parts = settings, of_parts
        self._digests, self._documents, self._parts = bytearray(), [], []
        self._count = 0

    def add(self, text: str) -> None:
        """Adds the next document."""
        if self._of_parts:
            for index, part in enumerate(split_parts(text, self._settings.parts)):
                content = part.strip()
                if len(content) >= self._settings.min_characters:
                    self._note(content, index)
        else:
            self._note(text, 0)
        self._count += 1

    def save(self, target: epath.PathLike) -> None:
        """Writes the hashes in order, with the document and the part of each."""
        hashes = np.frombuffer(self._digests, ">u8").reshape(-1, 2).astype("<u8")
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: equal hashes stay in order
        high = hashes[order, 0]
        edges = np.arange(BUCKETS, dtype=np.uint64) << np.uint64(64 - 12)
        places = np.append(np.searchsorted(high, edges), len(high))
        write_arrays(target, {
            "places": places.astype("<u4"), "high": high, "low": hashes[order, 1],
            "document": np.asarray(self._documents, "<u4")[order],
            "part": np.asarray(self._parts, "<u4")[order],
        })

    def _note(self, text: str, part: int) -> None:
        self._digests += xxhash.xxh3_128_digest(text.encode())
        self._documents.append(self._count)
        self._parts.append(part)


def hashes(source: epath.PathLike) -> int:
    """How many hashes a Writer's file holds."""
    return int(Arrays(source).read("places", BUCKETS)[0])


def ranges(count: int) -> int:
    """In how many ranges to compare so many hashes: a power of two."""
    return min(1 << max(-(-count // ENTRIES) - 1, 0).bit_length(), BUCKETS)


def repeated(
    sources: Sequence[epath.PathLike], index: int, count: int, target: epath.PathLike
) -> tuple[list[Group], groups.Counts]:
    """Finds what came before, in range `index` of `count` of the hashes of all units.

    Writes (document, part) of each repetition, unit after unit, with the units' places among them;
    gives the largest groups of equal texts, and counts of all.
    """
    columns = {name: [] for name in ("high", "low", "document", "part")}
    units = []
    for number, source in enumerate(sources):
        arrays = Arrays(source)
        step = BUCKETS // count
        begin = int(arrays.read("places", index * step, index * step + 1)[0])
        end = int(arrays.read("places", (index + 1) * step, (index + 1) * step + 1)[0])
        for name, column in columns.items():
            column.append(arrays.read(name, begin, end))
        units.append(np.full(end - begin, number, np.uint32))
    high, low, document, part = (np.concatenate(column) for column in columns.values())
    unit = np.concatenate(units)
    order = np.lexsort((part, document, unit, low, high))
    high, low = high[order], low[order]
    equal = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    found = _groups(np.append(False, equal)[: len(high)], unit[order], document[order])
    again = order[1:][equal]
    unit, document, part = unit[again], document[again], part[again]
    order = np.lexsort((part, document, unit))
    places = np.searchsorted(unit[order], np.arange(len(sources) + 1))
    write_arrays(target, {
        "places": places.astype("<u8"), "document": document[order], "part": part[order],
    })
    return found


def _groups(
    again: np.ndarray, unit: np.ndarray, document: np.ndarray
) -> tuple[list[Group], groups.Counts]:
    """The groups to show and counts of all; `again` says which entries equal the one before."""
    firsts = np.flatnonzero(~again)
    sizes = np.diff(np.append(firsts, len(again)))
    order = np.lexsort((document[firsts], unit[firsts], -sizes))
    largest = [
        (int(sizes[one]), [
            (int(unit[place]), int(document[place]))
            for place in range(firsts[one], firsts[one] + min(sizes[one], MEMBERS))
        ])
        for one in order[:GROUPS].tolist() if sizes[one] > 1
    ]
    return largest, groups.count(sizes)


def of_unit(found: Iterable[epath.PathLike], number: int) -> dict[int, set[int]]:
    """The repeated parts of each document of unit `number`, from the files of all ranges."""
    parts: dict[int, set[int]] = {}
    for file in found:
        arrays = Arrays(file)
        begin, end = arrays.read("places", number, number + 2).tolist()
        pairs = zip(arrays.read("document", begin, end).tolist(),
                    arrays.read("part", begin, end).tolist(), strict=True)
        for document, part in pairs:
            parts.setdefault(document, set()).add(part)
    return parts


def cutter(settings: Settings, repeats: dict[int, set[int]]) -> Callable[[int, str], str]:
    """What takes the repeated parts out of the text of a document, given by its number."""
    def without(number: int, text: str) -> str:
        if number not in repeats:
            return text
        parts = enumerate(split_parts(text, settings.parts))
        return "".join(part for index, part in parts if index not in repeats[number])

    return without
