"""What BLEU, chrF and TER share: sacrebleu's statistics of sentences and scores of their sums.

These are the parts that sacrebleu's own bootstrap is made of (sacrebleu/significance.py). Scores
are from 0 to 100, as the library prints them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.evals.extras import need


def metric(name: str, **settings: Any):
    """sacrebleu's metric of that name (BLEU, CHRF, TER)."""
    return getattr(need("sacrebleu.metrics", name.lower(), "sacrebleu"), name)(**settings)


def statistics(
    metric, predictions: Sequence[str], references: Sequence[str | Sequence[str]]
) -> np.ndarray:
    """The sentences' statistics, float64 [N, K].

    Raises:
      UserError: the examples have different numbers of references.
    """
    lists = [[r] if isinstance(r, str) else list(r) for r in references]
    if len(counts := {len(some) for some in lists}) > 1 or 0 in counts:
        raise UserError(
            f"The examples have different numbers of references ({', '.join(map(str, counts))}): "
            "give each as many, at least one."
        )
    streams = [list(stream) for stream in zip(*lists, strict=True)]
    rows = metric._extract_corpus_statistics(list(predictions), streams)
    return np.asarray(rows, np.float64)


def finish(metric, sums: np.ndarray) -> np.ndarray:
    """The score of each row of sums, [R]."""
    return np.asarray([metric._compute_score_from_stats(row.tolist()).score for row in sums])


def signature(metric) -> str:
    """The line that makes the score comparable (Post 2018, https://arxiv.org/abs/1804.08771)."""
    return str(metric.get_signature())


class CorpusScore:
    """A metric of sacrebleu with its default settings, as the files of `metrics` offer it."""

    def __init__(self, name: str):
        """`name` as of `metric`."""
        self._name = name

    def signature(self) -> str:
        """The settings that the number depends on."""
        scorer = metric(self._name)
        statistics(scorer, ["a"], ["a"])  # sacrebleu counts the references of the last use
        return signature(scorer)

    def statistics(
        self, predictions: Sequence[str], references: Sequence[str | Sequence[str]]
    ) -> np.ndarray:
        """The sentences' statistics, [N, K]; see `statistics` above for the errors."""
        return statistics(metric(self._name), predictions, references)

    def finish(self, sums: np.ndarray) -> Mapping[str, np.ndarray]:
        """The score of each row of sums, under the metric's name in small letters."""
        return {self._name.lower(): finish(metric(self._name), sums)}
