"""Task metrics: one file each, found by its name.

A file has `statistics(predictions, references)`, an array [examples, K], and `finish(sums)`, which
makes values by name of sums of such rows [R, K]: so a score and all draws of its bootstrap are
computed alike. Where the result depends on settings, `signature()` says them in a line.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from jaxllm.core.errors import UserError, unknown
from jaxllm.evals.bootstrap import CONFIDENCE, RESAMPLES, Score, scores

__all__ = ["Score", "evaluate", "find", "names"]


def names() -> list[str]:
    """The metrics there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> ModuleType:
    """The file of a metric.

    Raises:
      UserError: there is no such metric.
    """
    if name not in names():
        raise unknown("metric", name, names())
    return importlib.import_module(f"{__name__}.{name}")


def evaluate(
    name: str, predictions: Sequence[Any], references: Sequence[Any], *,
    resamples: int = RESAMPLES, seed: int = 0, confidence: float = CONFIDENCE,
) -> dict[str, Score]:
    """The scores of a metric by name, with bootstrap intervals.

    Raises:
      UserError: no such metric, no examples, lists of different lengths, predictions that the
        metric cannot read, or a library that is not installed.
    """
    metric = find(name)
    if len(predictions) != len(references):
        raise UserError(
            f"{name}: there are {len(predictions)} predictions and {len(references)} references: "
            "give one of each for every example."
        )
    if not len(predictions):
        raise UserError(f"{name}: there are no examples to score: the evaluation set is empty.")
    return scores(
        metric.statistics(predictions, references), metric.finish, resamples=resamples, seed=seed,
        confidence=confidence,
    )
