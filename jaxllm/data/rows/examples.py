"""Examples as compact arrays: many texts of different lengths without an object for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

Example = dict[str, np.ndarray]  # by the names that the objective gives its arrays


class Examples:
    """A sequence of examples. Pickles to its arrays."""

    def __init__(self, columns: Mapping[str, tuple[np.ndarray, np.ndarray]], lengths: np.ndarray):
        """`columns` are the values of all examples one after another, and where each ends."""
        self._columns, self.lengths = dict(columns), lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        """Example `index`: views of the arrays."""
        return {
            name: values[(ends[index - 1] if index else 0) : ends[index]]
            for name, (values, ends) in self._columns.items()
        }

    def replaced(self, name: str, values: np.ndarray) -> Examples:
        """The examples with other values of one column, of the same lengths."""
        return Examples(
            {**self._columns, name: (values, self._columns[name][1])}, self.lengths
        )

    def values(self, name: str) -> np.ndarray:
        """The values of a column, of all examples one after another."""
        return self._columns[name][0]

    def digest(self) -> str:
        """sha256 of every example: equal digests, equal examples."""
        digest = hashlib.sha256()
        for name, (values, ends) in sorted(self._columns.items()):
            digest.update(f"{name} {values.dtype.str}".encode())
            digest.update(np.ascontiguousarray(values))
            digest.update(np.ascontiguousarray(ends))
        return digest.hexdigest()


class Collector:
    """Gathers examples; those of a chunk become one array each, so that memory stays compact."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {}
        self._sizes: dict[str, list[np.ndarray]] = {}
        self._lengths: list[np.ndarray] = []

    def add(self, examples: Sequence[Example], lengths: Iterable[int]) -> None:
        """Appends examples that have the same columns, and their places in a row."""
        if not examples:
            return
        for name in examples[0]:
            arrays = [example[name] for example in examples]
            self._parts.setdefault(name, []).append(np.concatenate(arrays))
            self._sizes.setdefault(name, []).append(np.array([len(a) for a in arrays], np.int64))
        self._lengths.append(np.array(list(lengths), np.int64))

    def done(self) -> Examples:
        """All of them."""
        columns = {
            name: (np.concatenate(self._parts[name]), np.cumsum(np.concatenate(sizes)))
            for name, sizes in self._sizes.items()
        }
        lengths = np.concatenate(self._lengths) if self._lengths else np.zeros(0, np.int64)
        return Examples(columns, lengths)
