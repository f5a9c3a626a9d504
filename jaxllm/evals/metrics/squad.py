"""Exact match and F1 of short answers with SQuAD's normalisation (Rajpurkar et al. 2016).

Answers are compared in small letters without punctuation, articles and extra spaces; F1 is that of
their words. Of several references the best counts. Nothing predicted where nothing is wanted is
right (SQuAD 2).
"""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Mapping, Sequence

import numpy as np

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def statistics(
    predictions: Sequence[str], references: Sequence[str | Sequence[str]]
) -> np.ndarray:
    """[N, 3]: equal or not, F1, and 1."""
    rows = []
    for mine, true in zip(predictions, references, strict=True):
        answers = [true] if isinstance(true, str) else list(true) or [""]
        exact = max(normalized(mine) == normalized(answer) for answer in answers)
        rows.append([exact, max(_f1(mine, answer) for answer in answers), 1.0])
    return np.asarray(rows, np.float64).reshape(-1, 3)


def finish(sums: np.ndarray) -> Mapping[str, np.ndarray]:
    """`exact_match` and `f1`, from 0 to 1."""
    return {"exact_match": sums[:, 0] / sums[:, 2], "f1": sums[:, 1] / sums[:, 2]}


def normalized(answer: str) -> str:
    """The answer as it is compared."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def _f1(mine: str, true: str) -> float:
    found, wanted = normalized(mine).split(), normalized(true).split()
    if not found or not wanted:
        return float(found == wanted)
    same = sum((collections.Counter(found) & collections.Counter(wanted)).values())
    return 2 * same / (len(found) + len(wanted))
