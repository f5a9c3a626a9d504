"""The options of a multiple-choice question in another order, its answer moved along.

A row has `options` (also `choices`, `endings`), a list, and an `answer` or `label`: the option's
place from 0, its letter, or the option itself.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

OPTIONS = ("options", "choices", "endings")
ANSWERS = ("answer", "label", "answer_index", "answerKey")


def perturb_row(
    row: dict[str, Any], strength: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Shuffles the options of a row with probability `strength`; other rows stay as they are."""
    name = next((n for n in OPTIONS if _is_list(row.get(n))), "")
    if not name or len(row[name]) < 2 or rng.random() >= strength:
        return row
    before = list(row[name])
    order = rng.permutation(len(before)).tolist()
    changed = {**row, name: [before[old] for old in order]}
    for field in ANSWERS:
        if field in row:
            changed[field] = _moved(row[field], before, order)
    return changed


def _moved(answer: Any, before: list[Any], order: list[int]) -> Any:
    """The answer's new place, told the way the old one was."""
    if isinstance(answer, bool) or answer in before:
        return answer  # the option itself
    if isinstance(answer, (int, np.integer)) and 0 <= answer < len(before):
        return order.index(int(answer))
    if isinstance(answer, str) and len(answer) == 1:
        for letters in (string.ascii_uppercase, string.ascii_lowercase, string.digits):
            old = letters.find(answer)
            if 0 <= old < len(before):
                return letters[order.index(old)]
    return answer


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
