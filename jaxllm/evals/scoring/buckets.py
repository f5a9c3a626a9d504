"""A few lengths for rows of all lengths: every length is a program to compile, and every token of
padding is computed for nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEP = 16  # lengths are multiples of it


def rounded(length: int, step: int = STEP) -> int:
    """The next multiple of `step`."""
    return -(-length // step) * step


def choose(lengths: Sequence[int], most: int, step: int = STEP) -> list[int]:
    """At most `most` multiples of `step`, ascending, to which rows are padded with the least
    padding in all.

    Found exactly, by dynamic programming over the lengths that there are.
    """
    sizes, counts = np.unique([rounded(length, step) for length in lengths], return_counts=True)
    total = np.concatenate([[0], np.cumsum(counts)])
    n = len(sizes)
    # cost[j]: tokens of the rows of the first j sizes; the last size of each bucket is its length
    cost = np.full((min(most, n) + 1, n + 1), np.inf)
    cost[:, 0] = 0
    last = np.zeros((min(most, n) + 1, n + 1), int)
    for k in range(1, min(most, n) + 1):
        for j in range(1, n + 1):
            options = cost[k - 1, :j] + (total[j] - total[:j]) * sizes[j - 1]
            last[k, j] = int(np.argmin(options))
            cost[k, j] = options[last[k, j]]
    chosen, j = [], n
    for k in range(min(most, n), 0, -1):
        if j == 0:
            break
        chosen.append(int(sizes[j - 1]))
        j = last[k, j]
    return chosen[::-1]


def split(
    lengths: Sequence[int], most: int, step: int = STEP
) -> list[tuple[int, list[int]]]:
    """(padded length, rows of it) for every bucket, the longest first, rows by falling length."""
    if not len(lengths):
        return []
    sizes = choose(lengths, most, step)
    groups: dict[int, list[int]] = {size: [] for size in sizes}
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        groups[next(size for size in sizes if size >= lengths[row])].append(row)
    return [(size, groups[size]) for size in reversed(sizes) if groups[size]]


def split_stems(
    stems: Sequence[int], tails: Sequence[int], rows: Sequence[int], most: int, step: int
) -> list[tuple[int, int, list[int]]]:
    """(padded length, padded length of the tails, stems of it): at most `most` such pairs, with
    one or two lengths of tails, in multiples of `step`.

    `rows` are how many rows a stem has: its own tokens are computed once, its longest tail for
    each of them. Of the ways to share the pairs among the lengths of tails the cheapest is taken.
    """
    best, least = [], np.inf
    for shares in _shares(most):
        groups = split(tails, len(shares), step)
        found = [
            (length, tail, [members[i] for i in some])
            for (tail, members), share in zip(groups, shares, strict=False)
            for length, some in split([stems[m] for m in members], share)
        ]
        cost = sum(
            length * len(some) + tail * sum(rows[m] for m in some) for length, tail, some in found
        )
        if cost < least:
            best, least = found, cost
    return best


def _shares(most: int) -> list[tuple[int, ...]]:
    return [(most,), *((first, most - first) for first in range(1, most))]


def batch_rows(tokens: int, length: int, rows: int, multiple: int) -> int:
    """Rows of a batch of about `tokens` tokens: a multiple of `multiple`, and no more than the
    next power of two above what there is."""
    size = min(max(1, tokens // length), 1 << (rows - 1).bit_length())
    return rounded(size, multiple)
