"""Confidence intervals: how much a score would change with other examples of the same kind.

The percentile bootstrap (Efron 1979, https://doi.org/10.1214/aos/1176344552): the examples are
drawn again with replacement, as many as there are, and the score of each draw is computed; the
interval is what holds the middle share of those scores. Every metric here is a function of sums
over the examples, so a draw is a row of counts, and all draws are one matrix product.

Shapes: N examples, K statistics of an example, R draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from jaxllm.core.errors import UserError

RESAMPLES = 1000
CONFIDENCE = 0.95
AT_ONCE = 2**22  # counts in memory: draws x examples

Finish = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # sums [R, K] -> values [R] by name


@dataclass(frozen=True)
class Score:
    """A value with the interval that the bootstrap gives it, over `n` examples."""

    value: float
    low: float
    high: float
    n: int
    drawn: np.ndarray | None = field(default=None, repr=False, compare=False)  # [R]


def scores(
    statistics_NK: np.ndarray, finish: Finish, *, resamples: int = RESAMPLES, seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[str, Score]:
    """The scores of all examples, by name, with their intervals.

    Raises:
      UserError: there are no examples, or an option is out of range.
    """
    if not len(statistics_NK):
        raise UserError("There are no examples to score: the evaluation set is empty.")
    if resamples < 1 or not 0 < confidence < 1:
        raise UserError(
            f"resamples={resamples} must be at least 1 and confidence={confidence} between 0 and 1."
        )
    n = len(statistics_NK)
    values = finish(statistics_NK.sum(axis=0)[None])
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for counts_RN in draws(n, resamples, seed):
        for name, some in finish(counts_RN @ statistics_NK).items():
            drawn[name].append(some)
    ends = (50 * (1 - confidence), 50 * (1 + confidence))
    result = {}
    for name, value in values.items():
        together = np.concatenate(drawn[name])
        low, high = np.percentile(together, ends).tolist()
        result[name] = Score(float(value[0]), low, high, n, together)
    return result


def difference(score: Score, other: Score, confidence: float = CONFIDENCE) -> Score | None:
    """`score` minus `other` with its interval, None where the two are not of the same examples.

    The bootstrap is paired: draws depend only on the number of examples and the seed, so that both
    scores of a draw are of the same examples, and what makes an example hard for both cancels.
    """
    if score.drawn is None or other.drawn is None or score.n != other.n or (
        len(score.drawn) != len(other.drawn)
    ):
        return None
    between = score.drawn - other.drawn
    ends = (50 * (1 - confidence), 50 * (1 + confidence))
    low, high = np.nanpercentile(between, ends).tolist()
    return Score(score.value - other.value, low, high, score.n, between)


def draws(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each example is in each draw, float64 [some draws, N], a few draws at a time."""
    rng = np.random.Generator(np.random.Philox(seed))
    rows = max(1, AT_ONCE // n)
    for first in range(0, resamples, rows):
        size = min(rows, resamples - first)
        chosen = rng.integers(n, size=(size, n)) + np.arange(size)[:, None] * n
        yield np.bincount(chosen.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
