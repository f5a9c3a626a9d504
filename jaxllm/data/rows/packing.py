"""Which examples share a row of the batch: best-fit decreasing, as a random-access map.

Examples go, the longest first, each into the fullest row that still has room for it (Johnson 1973;
TRL's packing_strategy "bfd"; Ding et al. 2024, arXiv:2404.10830). How many rows that takes depends
on the lengths alone. An epoch draws, from the seed and its number, which of the examples of one
length takes which place, and the order of the rows; so row i of any epoch follows from i alone.
"""

from __future__ import annotations

import bisect
import functools

import grain
import numpy as np

from jaxllm.data.rows.examples import Examples


class Packs:
    """The rows of every epoch; index divmod length is (epoch, row of it)."""

    def __init__(
        self, lengths: np.ndarray, capacity: int, seed: int, *, shuffle: bool, packing: bool
    ):
        """`lengths` of the examples, none above `capacity`; without `packing` one is a row."""
        self._lengths, self._seed, self._shuffle = lengths, seed, shuffle
        ordered = np.sort(lengths)[::-1]
        rows = best_fit(ordered, capacity) if packing else np.arange(len(lengths))
        self._places = np.argsort(rows, kind="stable")  # of `ordered`, row by row
        self._begins = np.flatnonzero(np.diff(rows[self._places], prepend=-1))
        self._epoch = functools.lru_cache(2)(self._draw)

    def __len__(self) -> int:
        """Rows of an epoch."""
        return len(self._begins)

    def __getitem__(self, index: int) -> np.ndarray:
        """The numbers of the examples in a row."""
        epoch, row = divmod(index, len(self))
        order, rows = self._epoch(epoch if self._shuffle else 0)
        begin = self._begins[rows[row] : rows[row] + 2]
        return order[self._places[slice(*begin) if len(begin) == 2 else slice(begin[0], None)]]

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Which example stands at each place of the ordered lengths, and the order of the rows."""
        count = len(self._lengths)
        if not self._shuffle:
            order = np.argsort(-self._lengths, kind="stable")
            firsts = np.minimum.reduceat(order[self._places], self._begins)
            return order, np.argsort(firsts)
        rng = np.random.default_rng((self._seed, epoch))
        mixed = rng.permutation(count)
        order = mixed[np.argsort(-self._lengths[mixed], kind="stable")]
        return order, rng.permutation(len(self))


class PackedRows(grain.MapDataset):
    """The examples of each row, as a step of a Grain pipeline; index divmod length as in Packs."""

    def __init__(self, examples: Examples, packs: Packs):
        super().__init__()
        self._examples, self._packs = examples, packs

    def __len__(self) -> int:
        return len(self._packs)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        return tuple(self._examples[int(number)] for number in self._packs[index])


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The row of each example, for lengths in descending order, none above `capacity`.

    Rows with equal room are taken one after another, each until the length fits no more: so all
    examples of one length are placed at once.
    """
    rows = np.empty(len(lengths), np.int64)
    open_rows: dict[int, list[np.ndarray]] = {}  # by the room left in them
    rooms: list[int] = []  # the keys, ascending
    used = 0
    firsts = np.flatnonzero(np.diff(lengths, prepend=-1))
    for first, last in zip(firsts, np.append(firsts[1:], len(lengths)), strict=True):
        length = max(int(lengths[first]), 1)
        while first < last:
            at = bisect.bisect_left(rooms, length)
            if at < len(rooms):
                room = rooms.pop(at)
                parts = open_rows.pop(room)
                free = np.concatenate(parts) if len(parts) > 1 else parts[0]
            else:
                room, each = capacity, capacity // length
                free = np.arange(used, used + -(-(last - first) // each))
                used += len(free)
            each = room // length
            full = min((last - first) // each, len(free))
            rows[first : first + full * each] = np.repeat(free[:full], each)
            first += full * each
            _put(open_rows, rooms, room - each * length, free[:full])
            if full < len(free) and first < last:  # the last row takes what is left
                rows[first:last] = free[full]
                _put(open_rows, rooms, room - (last - first) * length, free[full : full + 1])
                first, full = last, full + 1
            _put(open_rows, rooms, room, free[full:])
    return rows


def _put(
    open_rows: dict[int, list[np.ndarray]], rooms: list[int], room: int, rows: np.ndarray
) -> None:
    """Rows that have this much room left."""
    if not len(rows) or not room:
        return
    if room not in open_rows:
        bisect.insort(rooms, room)
        open_rows[room] = []
    open_rows[room].append(rows)
