"""The names of classes and tags, and their ids."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from jaxllm.core.errors import UserError, nearest
from jaxllm.data.rows.row import BadRow


class Labels:
    """Numbers names as they are met; `order` gives the ids that they get in the end."""

    def __init__(self, given: tuple[str, ...]):
        """`given` are all names in the order of their ids, () to take those of the training rows.

        Raises:
          UserError: a name that is given twice.
        """
        self._given, self._codes = given, {name: code for code, name in enumerate(given)}
        if len(self._codes) != len(given):
            twice = next(name for name in given if given.count(name) > 1)
            raise UserError(f"data.labels names {twice!r} twice. Remove one of them.")

    def learn(self, labels: Iterable[str | int]) -> bool:
        """Takes note of a training row's labels; whether one of them was new.

        Labels that are not among those given are left for `codes` to refuse.
        """
        if self._given:
            return False
        before = len(self._codes)
        for label in labels:
            self._codes.setdefault(str(label), len(self._codes))
        return len(self._codes) > before

    def known(self, labels: Iterable[str | int]) -> bool:
        """Whether training rows had all of these."""
        return bool(self._given) or all(str(label) in self._codes for label in labels)

    def codes(self, labels: Iterable[str | int], place: str) -> list[int]:
        """The numbers of a row's labels.

        Raises:
          BadRow: one that no training row has, or that is not among those given.
        """
        found = []
        for label in labels:
            if (name := str(label)) in self._codes:
                found.append(self._codes[name])
            elif self._given and name.isdecimal():
                if int(name) >= len(self._given):
                    raise BadRow(
                        place, f"label {label} is none of the {len(self._given)} that data.labels "
                        "names, counted from 0",
                    )
                found.append(int(name))
            else:
                where = "data.labels names" if self._given else "a row that is trained on has"
                raise BadRow(
                    place, f"label {name!r} is none that {where}. {nearest(name, self._codes)}"
                )
        return found

    def order(self) -> tuple[tuple[str, ...], np.ndarray]:
        """The names by id, sorted unless they were given, and the id of each number."""
        names = list(self._codes)
        if not self._given:
            names.sort(key=int if all(name.isdecimal() for name in names) else None)
        ids = {name: place for place, name in enumerate(names)}
        return tuple(names), np.array([ids[name] for name in self._codes], np.int32)
