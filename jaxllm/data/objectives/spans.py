"""T5's arithmetic of spans: how many tokens are dropped, in how many spans, and where.

Raffel et al. 2020 (arXiv:1910.10683), section 3.1.4, and the published preprocessors.
"""

from __future__ import annotations

import numpy as np

LEAST = 2  # tokens: one that is dropped, one that is kept


def counts(length: int, density: float, mean_length: float) -> tuple[int, int]:
    """Dropped tokens and spans in a text of `length` tokens (2 or more); one of each at least."""
    dropped = min(max(round(length * density), 1), length - 1)
    return dropped, max(round(min(dropped, length - dropped) / mean_length), 1)


def lengths(length: int, density: float, mean_length: float) -> tuple[int, int]:
    """Tokens of the encoder's and of the decoder's row, the end of text in each included."""
    dropped, spans = counts(length, density, mean_length)
    return length - dropped + spans + 1, dropped + spans + 1


def raw_length(encoder_length: int, density: float, mean_length: float) -> int:
    """The longest text whose encoder row has at most `encoder_length` tokens; 0: there is none."""
    length = LEAST
    while lengths(length, density, mean_length)[0] <= encoder_length:
        length += 1
    return length - 1 if length > LEAST else 0


def noise_mask(
    length: int, density: float, mean_length: float, rng: np.random.Generator
) -> np.ndarray:
    """Bool [length], True where a token is dropped; kept and dropped spans alternate, kept first.

    Every way to cut the kept and the dropped tokens into that many spans is equally likely.
    """
    if length < LEAST:
        return np.zeros(length, bool)
    dropped, spans = counts(length, density, mean_length)
    sizes = np.empty(2 * spans, np.int64)
    sizes[0::2] = _cut(length - dropped, spans, rng)
    sizes[1::2] = _cut(dropped, spans, rng)
    return np.repeat(np.arange(2 * spans) % 2 == 1, sizes)


def _cut(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Sizes of `parts` parts, each at least 1, that add up to `total`."""
    cuts = np.sort(rng.permutation(total - 1)[: parts - 1]) + 1
    return np.diff(cuts, prepend=0, append=total)
