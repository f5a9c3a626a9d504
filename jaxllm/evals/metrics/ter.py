"""TER of a corpus by sacrebleu with its default settings, from 0 to 100."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxllm.evals import translation


def signature() -> str:
    """The settings that the number depends on."""
    scorer = translation.metric("TER")
    translation.statistics(scorer, ["a"], ["a"])  # sacrebleu counts the references of the last use
    return translation.signature(scorer)


def statistics(
    predictions: Sequence[str], references: Sequence[str | Sequence[str]]
) -> np.ndarray:
    """The sentences' statistics, [N, K]."""
    return translation.statistics(translation.metric("TER"), predictions, references)


def finish(sums: np.ndarray) -> Mapping[str, np.ndarray]:
    """`ter`."""
    return {"ter": translation.finish(translation.metric("TER"), sums)}
