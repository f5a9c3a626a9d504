"""The spilled index of near-duplicates: per unit of work one file of band keys and signatures.

A unit's keys are written in the order of their first bits, with the places of BUCKETS ranges, so
that a worker takes one range of the keys of all units without another pass over the disk.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence

import numpy as np
from etils import epath

from jaxllm.data.prepare.duplicates.minhash import Settings, band_keys, signatures
from jaxllm.data.prepare.store import Arrays, write_arrays

BUCKET_BITS = 12
BUCKETS = 1 << BUCKET_BITS  # ranges of keys that a file tells apart
BATCH = 1 << 18  # characters signed at a time
SPAN, GAP = 1 << 13, 1 << 10  # rows of signatures read at once, and read over to save a read


class Writer:
    """Collects the index of a unit's documents, in order.

    The file has 12 * bands + bands * rows + 8 bytes a document; memory, while it is written, about
    twice that.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._texts: list[str] = []
        self._size = 0
        self._hashes, self._keys, self._rows = bytearray(), bytearray(), bytearray()
        self._characters = array("Q")

    def add(self, text: str) -> None:
        """Adds the next document (its final text, after all document stages)."""
        self._texts.append(text)
        self._characters.append(len(text))
        self._size += len(text)
        if self._size >= BATCH:
            self._sign()

    def save(self, target: epath.PathLike) -> None:
        """Writes the index; the file appears whole under its name.

        Raises:
          UserError: it cannot be written, or the disk is full.
        """
        self._sign()
        keys, self._keys = np.frombuffer(self._keys, "<u8"), bytearray()
        first_bits = (keys >> np.uint64(64 - BUCKET_BITS)).astype(np.uint16)
        order = np.argsort(first_bits, kind="stable")  # so documents stay in order in each range
        keys = keys[order]
        rows = np.frombuffer(self._rows, "<u4")[order // self._settings.bands]
        places = np.cumsum(np.bincount(first_bits, minlength=BUCKETS))
        del order
        write_arrays(target, {
            "documents": np.asarray([len(self._characters)], "<u8"),
            "places": np.insert(places, 0, 0).astype("<u8"),
            "keys": keys,
            "rows": rows,
            "hashes": np.frombuffer(self._hashes, np.uint8),
            "characters": np.asarray(self._characters, "<u8"),
        })

    def _sign(self) -> None:
        values = signatures(self._texts, self._settings)
        wordy = np.flatnonzero(values[:, 0] != np.iinfo(np.uint32).max)
        first = len(self._characters) - len(self._texts)
        self._rows += (first + wordy).astype("<u4").tobytes()
        self._keys += band_keys(values[wordy], self._settings).astype("<u8").tobytes()
        self._hashes += (values >> np.uint32(1)).astype(np.uint8).tobytes()  # bit 0 is always 1
        self._texts, self._size = [], 0


class Sidecars:
    """The indexes of all units, in order, read in ranges; documents are numbered over the corpus.

    Attributes:
      documents: of all units.
      starts: int64[units + 1], the number of each unit's first document.
      entries: band keys of all units.
    """

    def __init__(self, paths: Sequence[epath.PathLike], settings: Settings):
        self._units = [Arrays(file) for file in paths]
        self._row = settings.bands * settings.rows
        counts = [int(unit.read("documents")[0]) for unit in self._units]
        self.starts = np.cumsum([0, *counts])
        self.documents = int(self.starts[-1])
        self.entries = sum(int(unit.read("places", BUCKETS)[0]) for unit in self._units)

    def keys(self, part: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Range `part` of `count` of all keys: uint64[E] sorted, and int64[E] document numbers.

        Equal keys are sorted by document. No key is in two ranges.
        """
        begin, end = part * BUCKETS // count, (part + 1) * BUCKETS // count
        keys, numbers = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for unit, start in zip(self._units, self.starts, strict=False):
            first, last = (int(unit.read("places", at, at + 1)[0]) for at in (begin, end))
            keys.append(unit.read("keys", first, last))
            numbers.append(unit.read("rows", first, last) + start)
        joined = np.concatenate(keys)
        order = np.argsort(joined, kind="stable")
        return joined[order], np.concatenate(numbers)[order]

    def hashes(self, numbers: np.ndarray) -> np.ndarray:
        """uint8[N, bands * rows] of documents (ascending): the low bits of their signatures."""
        found = np.empty((len(numbers), self._row), np.uint8)
        for unit, start, begin, end in self._runs(numbers):
            first, last = int(numbers[begin]) - start, int(numbers[end - 1]) - start + 1
            rows = unit.read("hashes", first * self._row, last * self._row)
            found[begin:end] = rows.reshape(-1, self._row)[numbers[begin:end] - start - first]
        return found

    def characters(self, numbers: np.ndarray) -> np.ndarray:
        """int64[N], the lengths of documents (ascending)."""
        found = np.empty(len(numbers), np.int64)
        for unit, start, begin, end in self._runs(numbers):
            first, last = int(numbers[begin]) - start, int(numbers[end - 1]) - start + 1
            lengths = unit.read("characters", first, last)
            found[begin:end] = lengths[numbers[begin:end] - start - first]
        return found

    def _runs(self, numbers: np.ndarray) -> list[tuple[Arrays, int, int, int]]:
        """Cuts ascending numbers where a single read cannot or should not go on."""
        if not len(numbers):
            return []
        unit = np.searchsorted(self.starts, numbers, side="right") - 1
        jumps = (np.diff(numbers) > GAP) | (np.diff(unit) > 0) | (np.diff(numbers // SPAN) > 0)
        cuts = [0, *(np.flatnonzero(jumps) + 1).tolist(), len(numbers)]
        return [(self._units[unit[begin]], int(self.starts[unit[begin]]), begin, end)
                for begin, end in itertools.pairwise(cuts)]
