"""What `eval.evaluators` measures at every evaluation of a run: one file each, found by its name.

A file has the class EVALUATOR: made of the run's validation splits, it checks a model's config
before training and gives records of a model, with "split", values and their bootstrap intervals.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence

from jaxllm.core.errors import unknown
from jaxllm.data.loader import Validation
from jaxllm.evals.evaluators.base import Measured

__all__ = ["make", "names"]
PARTS = {"base"}  # files that are no evaluators


def names() -> list[str]:
    """The evaluators there are."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - PARTS)


def make(
    chosen: Sequence[str], splits: Mapping[str, Validation], batch_size: int, batches: int = 0
) -> list[Measured]:
    """The evaluators with these names, of all rows of `splits` or the first `batches` batches.

    Raises:
      UserError: there is no such evaluator.
    """
    for name in chosen:
        if name not in names():
            raise unknown("eval.evaluators", name, names())
    return [
        importlib.import_module(f"{__name__}.{name}").EVALUATOR(name, splits, batch_size, batches)
        for name in dict.fromkeys(chosen)
    ]
