"""Predicted and true labels as counts, which F1 and Matthews' correlation are functions of."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def one_hot(
    predictions: Sequence[Hashable], references: Sequence[Hashable]
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true labels, float64 [N, L] each, over the labels that either has."""
    places = {label: i for i, label in enumerate(dict.fromkeys([*references, *predictions]))}
    rows = np.eye(len(places))
    return rows[[places[p] for p in predictions]], rows[[places[r] for r in references]]


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)
