"""ROUGE-1, -2, -L and -Lsum of summaries (Lin 2004), by the library rouge-score, with stemming.

ROUGE-Lsum takes a line for a sentence. Of several references the one with the best F1 counts, as
in the library's `score_multi`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence

import numpy as np

from jaxllm.evals.extras import need

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def signature() -> str:
    """The settings that the numbers depend on."""
    library = importlib.metadata.version("rouge-score")
    return f"F1|stemmer:yes|sentences:lines|rouge-score:{library}"


def statistics(
    predictions: Sequence[str], references: Sequence[str | Sequence[str]]
) -> np.ndarray:
    """[N, 5]: each kind's F1, and 1."""
    library = need("rouge_score.rouge_scorer", "rouge", "rouge-score")
    scorer = library.RougeScorer(list(KINDS), use_stemmer=True)
    rows = []
    for mine, true in zip(predictions, references, strict=True):
        found = scorer.score_multi([true] if isinstance(true, str) else list(true), mine)
        rows.append([*(found[kind].fmeasure for kind in KINDS), 1.0])
    return np.asarray(rows, np.float64).reshape(-1, len(KINDS) + 1)


def finish(sums: np.ndarray) -> Mapping[str, np.ndarray]:
    """The mean F1 of each kind, from 0 to 1."""
    return {kind: sums[:, i] / sums[:, -1] for i, kind in enumerate(KINDS)}
