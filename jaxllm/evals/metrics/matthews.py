"""Matthews' correlation of predicted and true labels, two classes or more (Gorodkin 2004).

It is the score of CoLA in GLUE: 1 for a perfect, 0 for an uninformed classifier. Where all
predictions or all references are one class it says nothing and is 0, as in scikit-learn.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from jaxllm.evals.labels import one_hot, ratio


def statistics(predictions: Sequence[Hashable], references: Sequence[Hashable]) -> np.ndarray:
    """[N, 1 + 2 L]: right or not, predicted and true labels."""
    predicted, true = one_hot(predictions, references)
    right = (predicted * true).sum(axis=1, keepdims=True)
    return np.concatenate([right, predicted, true], axis=1)


def finish(sums: np.ndarray) -> Mapping[str, np.ndarray]:
    """`matthews`, from -1 to 1."""
    right, (predicted, true) = sums[:, 0], np.split(sums[:, 1:], 2, axis=1)
    n = true.sum(axis=1)
    together = right * n - (predicted * true).sum(axis=1)
    spread = [n**2 - (counts**2).sum(axis=1) for counts in (predicted, true)]
    return {"matthews": ratio(together, np.sqrt(spread[0] * spread[1]))}
