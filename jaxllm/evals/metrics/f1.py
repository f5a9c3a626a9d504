"""F1 of a classification with one label for each example: macro and micro averages.

As scikit-learn's `f1_score`: F1 of a label is 2 tp / (predicted + true), the macro average is over
the labels that are predicted or true in the examples, and the micro average equals accuracy here.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from jaxllm.evals.labels import one_hot, ratio


def statistics(predictions: Sequence[Hashable], references: Sequence[Hashable]) -> np.ndarray:
    """[N, 3 L]: true positives, predicted and true labels."""
    predicted, true = one_hot(predictions, references)
    return np.concatenate([predicted * true, predicted, true], axis=1)


def finish(sums: np.ndarray) -> Mapping[str, np.ndarray]:
    """`macro_f1` and `micro_f1`, from 0 to 1."""
    hit, predicted, true = np.split(sums, 3, axis=1)
    either = predicted + true
    return {
        "macro_f1": ratio(2 * hit, either).sum(axis=1) / (either > 0).sum(axis=1),
        "micro_f1": 2 * hit.sum(axis=1) / either.sum(axis=1),
    }
