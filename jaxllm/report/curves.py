"""Long series made readable and small: smoothed, and thinned without losing their spikes."""

from __future__ import annotations

import itertools

import numpy as np


def smoothing_window(count: int) -> int:
    """How many of `count` logged values one smoothed value averages: 2 %, at least 5, odd."""
    return max(5, count // 50) | 1 if count >= 20 else 1


def smooth(values_N: np.ndarray) -> np.ndarray:
    """The centred moving average [N]; near an end the window shrinks so that it stays centred."""
    count = len(values_N)
    half = smoothing_window(count) // 2
    index = np.arange(count)
    reach = np.minimum(half, np.minimum(index, count - 1 - index))
    sums = np.concatenate([[0.0], np.cumsum(values_N)])
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def thin(steps_N: np.ndarray, values_N: np.ndarray, limit: int = 1500):
    """At most `limit` of the points: the lowest and the highest of each of limit/2 stretches."""
    if len(steps_N) <= limit:
        return steps_N, values_N
    edges = np.linspace(0, len(steps_N), limit // 2 + 1).astype(int)
    kept = set()
    for begin, end in itertools.pairwise(edges):
        stretch = values_N[begin:end]
        kept.update((begin + int(stretch.argmin()), begin + int(stretch.argmax())))
    index = np.array(sorted(kept))
    return steps_N[index], values_N[index]
