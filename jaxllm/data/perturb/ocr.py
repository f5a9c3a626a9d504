"""Characters that scanned print is misread as: l for 1, O for 0, rn for m."""

from __future__ import annotations

import re

import numpy as np

PAIRS = (
    ("0", "O"), ("1", "l"), ("5", "S"), ("8", "B"), ("2", "Z"), ("6", "b"), ("9", "g"),
    ("I", "l"), ("e", "c"), ("a", "o"), ("h", "b"), ("n", "u"), ("t", "f"), ("v", "y"),
    ("m", "rn"), ("w", "vv"), ("d", "cl"), ("i", "!"), ("D", "O"), ("E", "F"), ("Q", "O"),
    ("U", "V"), ("C", "G"),
)


def _table() -> dict[str, list[str]]:
    table: dict[str, list[str]] = {}
    for one, other in PAIRS:
        table.setdefault(one, []).append(other)
        table.setdefault(other, []).append(one)
    return table


TABLE = _table()
UNITS = re.compile("|".join(sorted(map(re.escape, TABLE), key=len, reverse=True)))


def perturb(text: str, strength: float, rng: np.random.Generator) -> str:
    """Each character or pair of the table is misread at the rate `strength`."""
    def change(match: re.Match) -> str:
        if rng.random() >= strength:
            return match[0]
        choices = TABLE[match[0]]
        return choices[int(rng.integers(len(choices)))]

    return UNITS.sub(change, text)
