"""MinHash signatures of texts and their bands: near-duplicates share a band, others seldom do.

Broder, "On the resemblance and containment of documents", 1997; Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", chapter 3. Each of the bands * rows hash functions is a multiplication
by a random odd number modulo 2**32 of a shingle's 32-bit hash, which numpy does at memory speed:
cutting the text into words takes most of the time. So one hash for all (one-permutation hashing
with optimal densification, Shrivastava, 2017) would save little, and it finds slightly less among
short texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxllm.core.config import Wide
from jaxllm.core.errors import UserError, unknown
from jaxllm.data.prepare.duplicates.shingles import mix, shingles

BLOCK = 1 << 16  # shingles hashed at a time, where texts are short
KEEP = ("longest", "first", "last")
MOST_HASHES = 1024  # bands * rows: also the bytes that the index keeps of a document
FOUND = 0.5  # least share of the pairs at the threshold that must share a band
ODD = np.uint32(1)


@dataclass(frozen=True)
class Settings:
    """What a near-duplicate is, and which of several is kept.

    Two texts of Jaccard similarity J agree in one hash with probability J, in a band with J^rows,
    and share a band, so that they are compared at all, with 1 - (1 - J^rows)^bands:

      bands x rows   hashes   J=0.5   0.6    0.7    0.8    0.9
      14 x 8            112   0.053  0.211  0.565  0.924  0.9996
      20 x 7 (ours)     140   0.145  0.433  0.821  0.991  1.0000
      20 x 8            160   0.075  0.287  0.695  0.975  1.0000
      26 x 11           286   0.013  0.090  0.405  0.903  0.9999

    14 x 8 (FineWeb) misses 7.6 % at 0.8. What shares a band is then compared, so more candidates
    below the threshold cost time, never a wrong drop.
    """

    ngram: int = 5  # words of a shingle
    bands: int = 20
    rows: int = 7  # hashes in a band
    threshold: float = 0.7  # Jaccard similarity from which two documents are near-duplicates
    keep: str = "longest"  # longest (in characters; of equals the first) | first | last
    seed: Wide = 1  # of the hash functions


def check(settings: Settings) -> None:
    """Refuses settings out of range.

    Raises:
      UserError: it names `near.<field>`.
    """
    if settings.keep not in KEEP:
        raise unknown("near.keep", settings.keep, KEEP)
    hashes = settings.bands * settings.rows
    ranges = {"ngram": (1, 64), "bands": (1, MOST_HASHES), "rows": (1, MOST_HASHES),
              "seed": (0, 2**32 - 1)}
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if not low <= value <= high:
            raise UserError(f"near.{name}={value} must lie between {low} and {high}.")
    if hashes > MOST_HASHES:
        raise UserError(
            f"near.bands={settings.bands} and near.rows={settings.rows} need {hashes} hashes a "
            f"document; at most {MOST_HASHES} are made: set near.bands to at most "
            f"{MOST_HASHES // settings.rows}."
        )
    if not 0 < settings.threshold <= 1:
        raise UserError(
            f"near.threshold={settings.threshold} must lie above 0 and be at most 1: it is the "
            "Jaccard similarity from which two documents are near-duplicates, such as 0.7."
        )
    share = found(settings.threshold, settings)
    if share < FOUND:
        raise UserError(
            f"near.bands={settings.bands} and near.rows={settings.rows} find only {share:.1%} of "
            f"the pairs at near.threshold={settings.threshold}: {_more_found(settings)}."
        )


def _more_found(settings: Settings) -> str:
    """The nearest setting that finds 0.8 of the pairs at the threshold."""
    band = settings.threshold**settings.rows
    bands = math.ceil(math.log(0.2) / math.log1p(-band)) if band > 1e-9 else MOST_HASHES
    if bands * settings.rows <= MOST_HASHES:
        return f"set near.bands to at least {bands}"
    rows = next((r for r in range(settings.rows, 1, -1)
                 if 1 - (1 - settings.threshold**r) ** settings.bands >= 0.8), 1)
    return f"set near.rows to {rows}"


def found(similarity: float, settings: Settings) -> float:
    """The share of pairs at this Jaccard similarity that share a band."""
    return 1 - (1 - similarity**settings.rows) ** settings.bands


def signature(text: str, settings: Settings) -> np.ndarray:
    """The MinHash of one text: uint32[bands * rows], all 2**32 - 1 for a text without words."""
    return signatures([text], settings)[0]


def signatures(texts: Sequence[str], settings: Settings) -> np.ndarray:
    """The MinHashes of texts: uint32[D, bands * rows], band after band.

    The share of equal entries of two rows estimates the Jaccard similarity of their texts. A text
    of fewer than `ngram` words has one shingle, of all its words; a text without words has the
    largest value in every entry, which no other text has.
    """
    runs, counts = shingles(texts, settings.ngram)
    values = (runs >> np.uint64(32)).astype(np.uint32) | ODD  # 0 would be every hash's minimum
    hashes = settings.bands * settings.rows
    factors = _factors(hashes, settings.seed)
    filled = np.flatnonzero(counts)
    begins = (np.cumsum(counts) - counts)[filled]
    least = np.empty((hashes, len(filled)), np.uint32)
    first = 0
    while first < len(filled):
        last = max(int(np.searchsorted(begins, begins[first] + BLOCK)), first + 1)
        end = begins[last] if last < len(filled) else len(values)
        block, starts = values[begins[first] : end], begins[first:last] - begins[first]
        product = np.empty_like(block)
        for k, factor in enumerate(factors):
            np.multiply(block, factor, out=product)
            np.minimum.reduceat(product, starts, out=least[k, first:last])
        first = last
    signed = np.full((len(texts), hashes), np.iinfo(np.uint32).max, np.uint32)
    signed[filled] = least.T
    return signed


def _factors(hashes: int, seed: int) -> np.ndarray:
    """Odd multipliers of the hash functions, uint32[hashes]."""
    counter = np.arange(1, hashes + 1, dtype=np.uint64) + (np.uint64(seed) << np.uint64(32))
    return (mix(counter) >> np.uint64(32)).astype(np.uint32) | ODD


def band_keys(values: np.ndarray, settings: Settings) -> np.ndarray:
    """uint64[..., bands] of signatures [..., bands * rows]: equal where a whole band is equal.

    Bands have keys of their own: equal rows in two different bands have different keys.
    """
    shape = (*values.shape[:-1], settings.bands, settings.rows)
    keys = np.broadcast_to(mix(np.arange(1, settings.bands + 1, dtype=np.uint64)), shape[:-1])
    for row in np.moveaxis(values.reshape(shape), -1, 0):
        keys = mix(keys + row)
    return keys
