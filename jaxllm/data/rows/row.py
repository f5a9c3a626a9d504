"""A row as it is read, with its place for the errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Row(NamedTuple):
    """The columns of a row."""

    place: str  # "FILE, line 7"
    columns: Mapping[str, Any]


class BadRow(Exception):
    """A row that cannot be used: `str(error)` is its place and the reason."""

    def __init__(self, place: str, reason: str):
        super().__init__(f"{place}: {reason}")
        self.reason = reason
