"""Hashed runs of words of many texts at once, in numpy: what near-duplicates are compared by.

A word is a run of letters, marks and digits, in lower case; whatever else stands between words does
not count. A character of a script that is written without spaces (Han, kana, Thai, Lao, Khmer,
Myanmar) is a word by itself. What is a letter comes from the Unicode 3.2 tables that every Python
carries, with unassigned characters as letters, so that hashes do not depend on Python's version.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np

PIECE = 1 << 16  # characters hashed at a time: the arrays of a piece stay in the processor's cache

BETWEEN, PART, ALONE = 0, 1, 2  # words: not in one, within one, one by itself
CASED = 0x20000  # below lie all characters with cases
SYMBOLS = ((0x2000, 0x2C00), (0x3000, 0x3005), (0xFE00, 0xFE10), (0x1F000, 0x1FB00),
           (0xE0000, 0x110000))  # symbols, emoji, variation selectors, private use
UNSPACED = ((0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800), (0x19E0, 0x1A00),
            (0x3005, 0x3008), (0x3040, 0x3130), (0x31A0, 0x3200), (0x3400, 0x4DC0),
            (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x40000))
LETTERS = "LMN"  # first letters of the categories of letters, marks and numbers
UNASSIGNED = "Cn"

BASE, STEP = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1342543DE82EF95)  # odd


def shingles(texts: Sequence[str], ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all runs of `ngram` words, and the number of them in each text.

    A text of fewer words has one shingle, of all its words; a text without words has none. A run
    that occurs twice is there twice.

    Returns:
      uint64[S], text after text, and int64[len(texts)].
    """
    words, ends = _words(texts)
    counts = np.diff(ends, prepend=0)
    if not len(words):
        return words, counts
    runs = np.zeros(len(words), np.uint64)
    whole = len(words) - ngram + 1
    if whole > 0:
        runs[:whole] = words[:whole]
        for k in range(1, ngram):
            runs[:whole] *= STEP
            runs[:whole] += words[k : k + whole]
    kept = np.ones(len(words), bool)
    for k in range(1, min(ngram, len(words) + 1)):
        kept[(ends - k)[ends >= k]] = False  # runs that go over a text's end
    short = np.flatnonzero((counts > 0) & (counts < ngram))
    places = (ends - counts)[short]
    runs[places] = words[places]
    for k in range(1, ngram - 1):
        longer = counts[short] > k
        runs[places[longer]] *= STEP
        runs[places[longer]] += words[places[longer] + k]
    kept[places] = True
    del words  # a long text has millions
    return mix(runs[kept]), np.where(counts > 0, np.maximum(counts - ngram + 1, 1), 0)


def mix(values: np.ndarray) -> np.ndarray:
    """Spreads every bit of uint64 values over all 64 (the finish of splitmix64): one to one."""
    values = values ^ (values >> np.uint64(30))
    for shift, factor in ((27, 0xBF58476D1CE4E5B9), (31, 0x94D049BB133111EB)):
        values *= np.uint64(factor)
        values ^= values >> np.uint64(shift)
    return values


def _words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes uint64[W] of the words of all texts, and where each text's words end."""
    hashes, counts, batch, size = [], [], [], 0
    owners = np.zeros(len(texts), np.int64)  # pieces of each text
    for number, text in enumerate(texts):
        for piece in _pieces(text):
            if batch and size + len(piece) > PIECE:
                _hash_words(batch, hashes, counts)
                batch, size = [], 0
            batch.append(piece)
            size += len(piece) + 1
            owners[number] += 1
    if batch:
        _hash_words(batch, hashes, counts)
    if not hashes:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    ends = np.cumsum(np.concatenate(counts))
    return np.concatenate(hashes), ends[np.cumsum(owners) - 1]


def _pieces(text: str) -> list[str]:
    """The text, cut at spaces where it is longer than a piece (or anywhere, if it has none)."""
    if len(text) < PIECE:
        return [text]
    pieces, start = [], 0
    while start < len(text):
        end = start + PIECE - 1
        if end < len(text):
            end = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end), -1)
            end = end if end > start else start + PIECE - 1
        pieces.append(text[start:end])
        start = end
    return pieces


def _hash_words(batch: list[str], hashes: list[np.ndarray], counts: list[np.ndarray]) -> None:
    """Appends the hashes of the batch' words, and how many each of its texts has.

    A word is the polynomial of its characters' random values in BASE, modulo 2**64; prefix sums
    give all words of the batch at once.
    """
    classes, values, powers, inverses = _tables()
    joined = "\n".join(batch) + "\n"
    if joined.isascii():
        codes = np.frombuffer(joined.encode(), np.uint8)
    else:
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4")
    kinds = classes[codes]
    edges = np.ones(len(codes) + 1, bool)  # before each character, and after the last
    edges[1:-1] = (kinds[1:] != kinds[:-1]) | (kinds[1:] == ALONE)
    inside = kinds != BETWEEN
    begins = np.flatnonzero(edges[:-1] & inside)
    ends = np.flatnonzero(edges[1:] & inside) + 1
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(values[codes] * powers[: len(codes)], out=sums[1:])
    hashes.append(mix((sums[ends] - sums[begins]) * inverses[begins]))
    texts = np.cumsum([len(text) + 1 for text in batch])  # where each text ends
    counts.append(np.diff(np.searchsorted(begins, texts), prepend=0))


@cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Class and value of every character; powers of BASE and of its inverse up to a piece."""
    classes = np.full(0x110000, PART, np.uint8)
    lower = np.arange(0x110000, dtype=np.uint64)
    for code in range(CASED):
        character = chr(code)
        category = unicodedata.ucd_3_2_0.category(character)
        classes[code] = PART if category[0] in LETTERS or category == UNASSIGNED else BETWEEN
        lower[code] = ord(character.lower()[0]) if category[0] == "L" else code
    for start, end in SYMBOLS:
        classes[start:end] = BETWEEN
    for start, end in UNSPACED:
        classes[start:end] = np.minimum(classes[start:end] * ALONE, ALONE)
    powers = np.full(2 * PIECE, BASE, np.uint64)
    inverses = np.full(2 * PIECE, pow(int(BASE), -1, 2**64), np.uint64)
    powers[0] = inverses[0] = 1
    return classes, mix(lower + BASE), np.cumprod(powers), np.cumprod(inverses)
