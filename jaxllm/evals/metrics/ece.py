"""Expected calibration error: how far a model's confidence is from how often it is right.

Predictions are probabilities of the chosen answer, references whether it was right. They are put
into 15 equal bins of confidence (Naeini et al. 2015; Guo et al. 2017,
https://arxiv.org/abs/1706.04599), and the distances of mean confidence and accuracy are averaged,
weighted by the bins' examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.evals.labels import ratio

BINS = 15


def statistics(predictions: Sequence[float], references: Sequence[bool]) -> np.ndarray:
    """[N, 3 BINS]: by bin whether an example is in it, its confidence, and whether it is right.

    Raises:
      UserError: a confidence that is no probability.
    """
    confidence = np.asarray(predictions, np.float64)
    if not ((confidence >= 0) & (confidence <= 1)).all():  # NaN too
        bad = confidence[~((confidence >= 0) & (confidence <= 1))][0]
        raise UserError(f"ece: the confidence {bad} is no probability between 0 and 1.")
    # a bin holds its upper end, as in torchmetrics; 0 belongs to the first
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    inside = np.eye(BINS)[bins]
    right = np.asarray(references, np.float64)[:, None]
    return np.concatenate([inside, inside * confidence[:, None], inside * right], axis=1)


def finish(sums: np.ndarray) -> Mapping[str, np.ndarray]:
    """`ece`, from 0 (calibrated) to 1."""
    count, confidence, right = np.split(sums, 3, axis=1)
    return {"ece": np.abs(confidence - right).sum(axis=1) / count.sum(axis=1)}


def curve(predictions: Sequence[float], references: Sequence[bool]) -> list[dict[str, float]]:
    """The calibration curve: examples, mean confidence and accuracy of every bin that has any."""
    sums = statistics(predictions, references).sum(axis=0)
    count, confidence, right = np.split(sums, 3)
    rows = zip(count, ratio(confidence, count), ratio(right, count), strict=True)
    return [{"n": int(n), "confidence": c, "accuracy": a} for n, c, a in rows if n]
