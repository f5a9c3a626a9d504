"""Accuracy: the share of predictions that equal their reference."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np


def statistics(predictions: Sequence[Hashable], references: Sequence[Hashable]) -> np.ndarray:
    """[N, 2]: right or not, and 1."""
    right = [p == r for p, r in zip(predictions, references, strict=True)]
    return np.stack([np.asarray(right, np.float64), np.ones(len(right))], axis=1)


def finish(sums: np.ndarray) -> Mapping[str, np.ndarray]:
    """`accuracy`, from 0 to 1."""
    return {"accuracy": sums[:, 0] / sums[:, 1]}
