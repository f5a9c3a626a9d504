"""Near-duplicate documents of a corpus of any size: MinHash, banded, spilled to disk, verified.

Two documents are near-duplicates when the Jaccard similarity of their sets of shingles (runs of
`ngram` words, lower-case, punctuation left out; see shingles.py) is at least `threshold`. A
document of fewer words has one shingle, so only documents of the same words are its duplicates;
one without words has no duplicates.

The way of a corpus, with what the engine calls:

  1. For each unit of work, in any process:
       writer = Writer(settings); writer.add(text) for each kept document, in order;
       writer.save(path)                      # the unit's sidecar
  2. count = parts(sidecars), with sidecars = Sidecars(paths of all units in order, settings)
  3. For each part in range(count), in any process:
       pairs = duplicates(sidecars, part, count, texts, settings)   # int64[P, 2], verified
  4. Once: roots = clusters([pairs of part 0, …], sidecars.documents)   # int64[documents]
       Documents of one root belong into one split.
  5. Once, or by ranges of roots in any process:
       numbers = drops(roots, sidecars, texts, settings, begin, end)

Documents are numbered over the whole corpus, in the order of the units and of `add`. `texts` gives
texts back: texts(numbers) with ascending distinct int64 numbers returns their texts, as they were
added. Every result is a function of the texts and settings alone, whatever the number of workers,
units or parts.

A pair is decided by its signatures where they leave no doubt (SURE standard deviations from the
threshold), and otherwise by the exact similarity of the two texts, read back. With the default
settings a pair below 0.5 would have to agree in 120 of 140 hashes: a chance of 4e-17.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from jaxllm.data.prepare.duplicates.minhash import (
    Settings,
    band_keys,
    check,
    found,
    signature,
    signatures,
)
from jaxllm.data.prepare.duplicates.near_index import BUCKETS, Sidecars, Writer
from jaxllm.data.prepare.duplicates.shingles import mix, shingles

__all__ = ["Settings", "Sidecars", "Texts", "Writer", "band_keys", "check", "clusters", "drops",
           "duplicates", "found", "jaccard", "parts", "signature", "signatures", "verify"]

Texts = Callable[[np.ndarray], Sequence[str]]

ENTRIES = 1 << 21  # band keys of a partition: about 128 MiB of memory
PAIRS = 1 << 18  # pairs whose signatures are read at a time: about 100 MiB
COMPARED = 1 << 13  # pairs of signatures compared at a time, in the processor's cache
CHARACTERS = 1 << 23  # of texts read back at a time
SURE = 4  # standard deviations of the estimate
BUCKET_LEADERS = 8  # documents of a bucket that all others of it are compared with
CLUSTER_LEADERS = 16  # documents kept of a cluster that all others of it are compared with
RULED_ROUNDS = 64  # over the rest of a cluster, before its order becomes that of a hash


def parts(sidecars: Sidecars) -> int:
    """In how many partitions to look for pairs, so that one fits into about 128 MiB of memory."""
    return min(max(-(-sidecars.entries // ENTRIES), 1), BUCKETS)


def duplicates(
    sidecars: Sidecars, part: int, count: int, texts: Texts, settings: Settings
) -> np.ndarray:
    """Verified near-duplicate pairs of the part's share of band keys: sorted int64[P, 2].

    Documents that share a band are a bucket. Not all its pairs are compared: the first document is
    compared with all others, then the first that was like none so far, and so on, BUCKET_LEADERS
    times at most. So time is linear in the size of a bucket.
    """
    keys, numbers = sidecars.keys(part, count)
    same = keys[1:] == keys[:-1]
    shared = np.zeros(len(keys), bool)
    shared[1:] |= same
    shared[:-1] |= same
    keys, numbers = keys[shared], numbers[shared]
    starts = _starts(keys)
    unlike = np.ones(len(keys), bool)
    led = np.zeros(len(keys), bool)
    found = [np.zeros((0, 2), np.int64)]
    for _ in range(BUCKET_LEADERS):
        leaders = _first(unlike, starts)
        leaders = np.repeat(leaders, np.diff(np.append(starts, len(keys))))
        led[leaders[leaders >= 0]] = True
        unlike &= ~led
        members = np.flatnonzero((leaders >= 0) & ~led)
        if not len(members):
            break
        pairs = np.sort(np.stack([numbers[leaders[members]], numbers[members]], axis=1), axis=1)
        codes, back = np.unique(pairs @ [sidecars.documents, 1], return_inverse=True)
        pairs = np.stack(np.divmod(codes, sidecars.documents), axis=1)
        alike = verify(pairs, sidecars, texts, settings)
        found.append(pairs[alike])
        unlike[members[alike[back]]] = False
    return np.unique(np.concatenate(found), axis=0)


def _first(marked: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """int64[len(starts)]: the place of the first marked entry of each segment, or -1."""
    if not len(starts):
        return starts
    places = np.where(marked, np.arange(len(marked)), len(marked))
    first = np.minimum.reduceat(places, starts)
    return np.where(first < len(marked), first, -1)


def verify(
    pairs: np.ndarray, sidecars: Sidecars, texts: Texts, settings: Settings
) -> np.ndarray:
    """Which pairs int64[P, 2] of different documents are near-duplicates: bool[P]."""
    agree = np.empty(len(pairs), np.int64)
    for begin in range(0, len(pairs), PAIRS):
        numbers, places = np.unique(pairs[begin : begin + PAIRS], return_inverse=True)
        hashes, places = sidecars.hashes(numbers), places.reshape(-1, 2)
        for first in range(0, len(places), COMPARED):
            left, right = places[first : first + COMPARED].T
            equal = np.count_nonzero(hashes[left] == hashes[right], axis=1)
            agree[begin + first : begin + first + len(equal)] = equal
    low, high = _doubtful(settings)
    alike = agree > high
    doubtful = np.flatnonzero((agree >= low) & (agree <= high))
    alike[doubtful] = _exactly(pairs[doubtful], sidecars, texts, settings)
    return alike


def _doubtful(settings: Settings) -> tuple[int, int]:
    """From how many and to how many equal hashes a pair's texts are compared.

    A signature keeps 8 bits of a hash, so hashes of different shingles agree once in 256 times.
    """
    hashes = settings.bands * settings.rows
    share = settings.threshold + (1 - settings.threshold) / 256
    doubt = SURE * math.sqrt(share * (1 - share) / hashes)
    return math.ceil((share - doubt) * hashes), math.floor((share + doubt) * hashes)


def _exactly(
    pairs: np.ndarray, sidecars: Sidecars, texts: Texts, settings: Settings
) -> np.ndarray:
    """Which pairs are near-duplicates by their texts, read back a bounded number at a time."""
    alike = np.zeros(len(pairs), bool)
    every, places = np.unique(pairs, return_inverse=True)
    lengths = sidecars.characters(every)[places.reshape(-1, 2)].sum(axis=1)
    chunk = np.cumsum(lengths) // CHARACTERS
    cuts = np.flatnonzero(np.diff(chunk)) + 1
    for begin, end in itertools.pairwise([0, *cuts.tolist(), len(pairs)]):
        numbers, places = np.unique(pairs[begin:end], return_inverse=True)
        runs, counts = shingles(texts(numbers), settings.ngram)
        sets = [_distinct(run) for run in np.split(runs, np.cumsum(counts)[:-1])]
        for pair, (left, right) in enumerate(places.reshape(-1, 2).tolist(), begin):
            alike[pair] = jaccard(sets[left], sets[right]) >= settings.threshold
    return alike


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """The share of common members among all members of two sets, given as distinct values."""
    both = np.sort(np.concatenate([left, right]))
    common = np.count_nonzero(both[1:] == both[:-1])
    return common / max(len(both) - common, 1)


def _distinct(values: np.ndarray) -> np.ndarray:
    values = np.sort(values)
    return np.concatenate([values[:1], values[1:][values[1:] != values[:-1]]])


def clusters(pairs: Iterable[np.ndarray], documents: int) -> np.ndarray:
    """The smallest number of each document's cluster: what pairs connect, directly or in turns.

    Memory: 8 bytes a document, and what the largest array of pairs int64[P, 2] needs.

    Returns:
      int64[documents]; a document that is in no pair has its own number.
    """
    roots = np.arange(documents)
    for some in pairs:
        for begin in range(0, len(some), PAIRS):
            _join(roots, some[begin : begin + PAIRS])
    for begin in range(0, documents, PAIRS):  # a root is never after its members
        _shorten(roots, np.arange(begin, min(begin + PAIRS, documents)))
    return roots


def _join(roots: np.ndarray, pairs: np.ndarray) -> None:
    """Hangs the larger root of each pair under the smaller one, until they are the same."""
    touched = np.unique(pairs)
    while True:
        _shorten(roots, touched)
        ends = roots[pairs]
        ends = ends[ends[:, 0] != ends[:, 1]]
        if not len(ends):
            return
        low, high = ends.min(axis=1), ends.max(axis=1)
        np.minimum.at(roots, high, low)
        touched = np.union1d(touched, high)


def _shorten(roots: np.ndarray, numbers: np.ndarray) -> None:
    """Lets documents point to the root of their tree."""
    while len(numbers):
        above = roots[numbers]
        top = roots[above]
        roots[numbers] = top
        numbers = numbers[top != above]


def drops(
    roots: np.ndarray, sidecars: Sidecars, texts: Texts, settings: Settings,
    begin: int = 0, end: int | None = None,
) -> np.ndarray:
    """Which documents to leave out, of the clusters with begin <= root < end.

    Of each cluster the best document by `settings.keep` is kept and its near-duplicates are left
    out; so with the best of the rest, and so on. So each document that is left out is itself a
    verified near-duplicate of one that is kept. The first CLUSTER_LEADERS that are kept are
    compared with all of their cluster, further ones with those that they share a band with.

    Returns:
      Ascending int64 numbers.
    """
    members = _members(roots, begin, sidecars.documents if end is None else end)
    members = members[np.lexsort((*_worse(members, sidecars, settings), roots[members]))]
    dropped = [np.zeros(0, np.int64)]
    for _ in range(CLUSTER_LEADERS):
        starts = _starts(roots[members])
        best = np.repeat(members[starts], np.diff(np.append(starts, len(members))))
        rest = np.flatnonzero(members != best)
        pairs = np.stack([best[rest], members[rest]], axis=1)
        alike = verify(pairs, sidecars, texts, settings)
        dropped.append(members[rest[alike]])
        members = members[rest[~alike]]
        if not len(members):
            break
    dropped.append(_by_bands(members, roots, sidecars, texts, settings))
    return np.sort(np.concatenate(dropped))


def _by_bands(
    members: np.ndarray, roots: np.ndarray, sidecars: Sidecars, texts: Texts, settings: Settings
) -> np.ndarray:
    """What to drop of large clusters, better documents first, in time linear in their size.

    In each round those are kept that are the best of all undecided ones in each of their bands:
    they do not depend on any other's fate. In a long chain in the order of the rule (pages of one
    template, day after day) that is only one, so after RULED_ROUNDS the order is that of a hash.
    """
    ascending = np.argsort(members)
    keys = np.empty((len(members), settings.bands), np.uint64)
    keys[ascending] = band_keys(sidecars.hashes(members[ascending]), settings)
    keys = mix(keys + roots[members].astype(np.uint64)[:, None])
    dropped = [np.zeros(0, np.int64)]
    for turn in itertools.count():
        if not len(members):
            break
        if turn == RULED_ROUNDS:
            order = np.argsort(mix(members.astype(np.uint64)))
            members, keys = members[order], keys[order]
        best = np.empty(keys.shape, np.int64)
        for band in range(settings.bands):
            _, first, which = np.unique(keys[:, band], return_index=True, return_inverse=True)
            best[:, band] = first[which]
        kept = (best == np.arange(len(members))[:, None]).all(axis=1)
        other, band = np.nonzero(kept[best] & ~kept[:, None])
        codes = np.unique(best[other, band] * len(members) + other)
        leader, other = np.divmod(codes, len(members))
        alike = verify(members[np.stack([leader, other], axis=1)], sidecars, texts, settings)
        gone = np.zeros(len(members), bool)
        gone[other[alike]] = True
        dropped.append(members[gone])
        members, keys = members[~(kept | gone)], keys[~(kept | gone)]
    return np.concatenate(dropped)


def _starts(values: np.ndarray) -> np.ndarray:
    """Where runs of equal values begin."""
    return np.flatnonzero(np.append(True, values[1:] != values[:-1]))[: len(values)]


def _members(roots: np.ndarray, begin: int, end: int) -> np.ndarray:
    """The documents of clusters of several with begin <= root < end."""
    several = np.zeros(len(roots), bool)
    for first in range(0, len(roots), PAIRS):
        block = roots[first : first + PAIRS]
        inner = (block != np.arange(first, first + len(block))) & (block >= begin) & (block < end)
        several[first : first + PAIRS] |= inner
        several[block[inner]] = True
    return np.flatnonzero(several)


def _worse(members: np.ndarray, sidecars: Sidecars, settings: Settings) -> list[np.ndarray]:
    """Sort keys, the last first, by which a better document comes before a worse one."""
    if settings.keep == "longest":
        return [members, -sidecars.characters(members)]
    return [members if settings.keep == "first" else -members]
