"""Decontamination: text that an evaluation set holds too is cut out of the training documents.

The procedure is GPT-3's (Brown et al. 2020, https://arxiv.org/abs/2005.14165, appendix C). A gram
is a lower-cased word between white space without punctuation. Where a document shares 13 grams in
a row with an evaluation example, they are removed with 200 characters on each side; the pieces
that are left are documents of their own if they have at least 200 characters; a document that
falls into more than 10 pieces is dropped; 13-grams that more than 10 training documents hold are
phrases of the language and are ignored.

Where the paper leaves it open:

- An example's fields count each on its own and joined in the file's order. What is shorter than
  13 words is matched as a whole from 8 words on, the paper's smallest N; what is shorter still
  cannot be told from chance and is not matched.
- Pieces are counted before the short ones are thrown away.
- A word of which the 200 characters take a part goes as a whole, so that no piece begins or ends
  within a word.
- Punctuation is everything but letters, marks and digits, so that "3+4" and "3 + 4" stay different
  and "don't" and "don’t" are one.

Words of examples are numbered and n-grams of these numbers hashed with 64 bits from xxhash; every
find is compared word by word, so that a collision finds nothing. The index is arrays of the size
of the evaluation sets and equal wherever it is built from equal files.
"""

from __future__ import annotations

import array
import dataclasses
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.evaluations.sets import Example, read_examples
from jaxllm.data.prepare.stages.base import Dropped

LONGEST = 64  # words of an n-gram
REASON = "contaminated"  # of a document that is dropped


@dataclass(frozen=True)
class Settings:
    """The evaluation sets and the procedure's numbers, GPT-3's unless changed."""

    sets: tuple[str, ...] = ()  # files, folders or lm-evaluation-harness task files (YAML)
    ngram: int = 13  # words
    shortest: int = 8  # words, of an example that has fewer than `ngram`
    window: int = 200  # characters removed on each side of a match
    least_piece: int = 200  # characters of a piece that is kept
    most_pieces: int = 10  # a document that falls into more is dropped
    most_documents: int = 10  # an n-gram that more training documents hold is ignored


def check(settings: Settings) -> None:
    """Raises UserError for settings out of range."""
    if not 1 <= settings.shortest <= settings.ngram <= LONGEST:
        raise UserError(
            f"decontaminate.shortest={settings.shortest} and decontaminate.ngram={settings.ngram} "
            f"must satisfy 1 <= shortest <= ngram <= {LONGEST} (words); GPT-3 has 8 and 13."
        )
    for name in ("window", "least_piece"):
        if getattr(settings, name) < 0:
            raise UserError(
                f"decontaminate.{name}={getattr(settings, name)} characters must not be negative."
            )
    for name in ("most_pieces", "most_documents"):
        if getattr(settings, name) < 1:
            raise UserError(f"decontaminate.{name}={getattr(settings, name)} must be at least 1.")
    if not settings.sets:
        raise UserError(
            "decontaminate.sets is empty: name the evaluation sets, such as "
            "('eval/mmlu/', 'eval/gsm8k.jsonl', 'tasks/mine.yaml'), or leave 'decontaminate' out."
        )


def digest(settings: Settings) -> str:
    """What the evaluation sets hold, as `Index.digest`."""
    return load(settings).digest


@dataclass(frozen=True)
class SetSize:
    """What was read of one set."""

    name: str
    examples: int
    too_short: int  # examples with fewer words than `shortest`, which are not matched


def load(settings: Settings) -> Index:
    """The index of the evaluation sets.

    Raises:
      UserError: settings out of range, a set that cannot be read or holds no text.
    """
    check(settings)
    return Index(settings, itertools.chain.from_iterable(map(read_examples, settings.sets)))


class Index:
    """The evaluation sets' n-grams, numbered from 0 in the order of the sets. Never changes.

    Attributes:
      sets: what was read, by set.
      digest: of the settings and the words of all examples, 32 hexadecimal digits.
    """

    def __init__(self, settings: Settings, examples: Iterable[Example]):
        """An index of these examples; `load` reads them from files."""
        self.settings = settings
        self._vocabulary: dict[str, int] = {}  # from 1; 0 is every other word
        words = _Words(settings, self._vocabulary)
        for example in examples:
            words.add(example)
        self._names, self._numbers = words.names, words.numbers
        self.sets = words.sizes()
        self._stream = np.asarray(words.stream, np.int32)
        numbers = dataclasses.replace(settings, sets=())
        self.digest = xxhash.xxh3_128_hexdigest(
            repr((numbers, words.units)).encode() + "\n".join(self._vocabulary).encode()
            + self._stream.tobytes()
        )
        self._build(words)

    def __len__(self) -> int:
        """How many n-grams it holds."""
        return len(self._places)

    def hits(self, text: str) -> tuple[int, ...]:
        """The numbers of the n-grams that the text holds, ascending, each once."""
        return tuple(np.unique(self._find(text)[1]).tolist())

    def words(self, ngrams: Sequence[int]) -> list[str]:
        """The words of each of these n-grams, a space between them."""
        vocabulary = ["", *self._vocabulary]
        starts, lengths = self._places[list(ngrams)], self._lengths[list(ngrams)]
        return [
            " ".join(vocabulary[word] for word in self._stream[start : start + length])
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
        ]

    def ignored(self, documents: Mapping[int, int]) -> frozenset[int]:
        """The n-grams to ignore, given how many training documents hold each."""
        return frozenset(n for n, c in documents.items() if c > self.settings.most_documents)

    def overlapped(self, ngrams: Iterable[int]) -> list[tuple[str, int]]:
        """(set, example) of the evaluation examples that hold any of these n-grams, ascending by
        set in their given order. Examples of a set count from 0."""
        examples = {
            int(example)
            for n in ngrams
            for example in self._owners[self._owners_from[n]:self._owners_from[n + 1]]
        }
        return [(self._names[e], self._numbers[e]) for e in sorted(examples)]

    def clean(self, text: str, ignored: frozenset[int] = frozenset()) -> list[str] | Dropped:
        """The pieces of the text that stay: the text itself where nothing is shared.

        Dropped("contaminated") where it falls into too many pieces or nothing long enough stays.
        """
        places, ngrams = self._find(text)
        if ignored and len(ngrams):
            stay = ~np.isin(ngrams, np.fromiter(ignored, np.int64, len(ignored)))
            places, ngrams = places[stay], ngrams[stay]
        if not len(ngrams):
            return [text]
        spans = _spans(text)
        lengths = self._lengths[ngrams]
        matched = [
            (spans[first][0], spans[first + length - 1][1])
            for first, length in zip(places.tolist(), lengths.tolist(), strict=True)
        ]
        pieces = [text[a:b].strip() for a, b in _outside(text, matched, self.settings.window)]
        pieces = [piece for piece in pieces if piece]
        kept = [piece for piece in pieces if len(piece) >= max(self.settings.least_piece, 1)]
        return kept if kept and len(pieces) <= self.settings.most_pieces else Dropped(REASON)

    def _find(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """(first gram, n-gram) of every match, both int64 [matches], by first gram."""
        grams = _grams(text)
        numbers = map(self._vocabulary.get, grams, itertools.repeat(0))
        ids = np.fromiter(numbers, np.int32, len(grams))
        shortest = self.settings.shortest
        if len(ids) < shortest or not len(self):
            return _NONE, _NONE
        values = self._values[ids]
        hashes = _hashes(values, shortest)
        first = np.flatnonzero(self._likely[hashes >> self._shift])
        hashes = hashes[first]
        at = np.minimum(np.searchsorted(self._prefixes, hashes), len(self._prefixes) - 1)
        first = first[self._prefixes[at] == hashes]
        if not len(first):
            return _NONE, _NONE
        found = [self._match(ids, values, first, n) for n in self._tables]
        places = np.concatenate([place for place, _ in found])
        ngrams = np.concatenate([ngram for _, ngram in found])
        order = np.lexsort((ngrams, places))
        return places[order], ngrams[order]

    def _match(
        self, ids: np.ndarray, values: np.ndarray, first: np.ndarray, n: int
    ) -> tuple[np.ndarray, np.ndarray]:
        hashes, numbers = self._tables[n]
        first = first[first + n <= len(ids)]
        wanted = _hashes_at(values, first, n)
        at = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
        same = hashes[at] == wanted
        first, ngrams = first[same], numbers[at[same]]
        for k in range(n):  # a word at a time: little memory
            same = ids[first + k] == self._stream[self._places[ngrams] + k]
            first, ngrams = first[same], ngrams[same]
        return first, ngrams

    def _build(self, words: _Words) -> None:
        """Numbers the n-grams; tries other hashes until no two of them share one."""
        starts, lengths, owners = words.ngrams()
        for seed in itertools.count():
            self._values = _word_values(self._vocabulary, seed)
            values = self._values[self._stream]
            hashes = np.empty(len(starts), np.uint64)
            for n in np.unique(lengths).tolist():
                of_n = lengths == n
                hashes[of_n] = _hashes_at(values, starts[of_n], n) + np.uint64(n)
            _, first, number = np.unique(hashes, return_index=True, return_inverse=True)
            if self._equal(starts, lengths, first[number]):
                break
        rank = np.empty(len(first), np.int64)  # by place in the sets instead of by hash
        rank[np.argsort(first, kind="stable")] = np.arange(len(first))
        number, first = rank[number], np.sort(first)
        self._places, self._lengths = starts[first], lengths[first]
        pairs = np.unique(number * len(self._names) + owners)
        self._owners = pairs % max(1, len(self._names))
        self._owners_from = np.searchsorted(
            pairs, np.arange(len(first) + 1) * len(self._names))
        self._tables = {
            n: self._table(values, np.flatnonzero(self._lengths == n), n)
            for n in np.unique(self._lengths).tolist()
        }
        self._shift = np.uint64(64 - _bits(len(first)))
        self._likely = np.zeros(1 << _bits(len(first)), np.bool_)
        self._prefixes = np.unique(_hashes_at(values, self._places, self.settings.shortest))
        self._likely[self._prefixes >> self._shift] = True

    def _equal(self, starts: np.ndarray, lengths: np.ndarray, other: np.ndarray) -> bool:
        """Whether each n-gram's words are those of the other n-gram named for it."""
        for n in np.unique(lengths).tolist():
            of_n = np.flatnonzero(lengths == n)
            if (lengths[other[of_n]] != n).any():
                return False
            for k in range(n):
                mine = self._stream[starts[of_n] + k]
                if (mine != self._stream[starts[other[of_n]] + k]).any():
                    return False
        return True

    def _table(
        self, values: np.ndarray, ngrams: np.ndarray, n: int
    ) -> tuple[np.ndarray, np.ndarray]:
        hashes = _hashes_at(values, self._places[ngrams], n)
        order = np.argsort(hashes)
        return hashes[order], ngrams[order]


_NONE = np.zeros(0, np.int64)


class _Words:
    """The examples' words, numbered and one after another."""

    def __init__(self, settings: Settings, vocabulary: dict[str, int]):
        self._settings, self._vocabulary = settings, vocabulary
        self.stream = array.array("i")
        self.names: list[str] = []  # of the set, by example
        self.numbers: list[int] = []
        self.units: list[tuple[int, int, int]] = []  # first word, words, example
        self._counts: dict[str, list[int]] = {}

    def add(self, example: Example) -> None:
        """Numbers the words of an example: all of them, and its short fields again alone."""
        fields = [_grams(text) for text in example.fields]
        units = [list(itertools.chain.from_iterable(fields))]
        if len(fields) > 1:
            units += [words for words in fields if len(words) < self._settings.ngram]
        units = [words for words in units if len(words) >= self._settings.shortest]
        for words in units:
            self.units.append((len(self.stream), len(words), len(self.names)))
            number = self._vocabulary.setdefault
            self.stream.extend(number(word, len(self._vocabulary) + 1) for word in words)
        self.names.append(example.set)
        self.numbers.append(example.number)
        counts = self._counts.setdefault(example.set, [0, 0])
        counts[0] += 1
        counts[1] += not units

    def sizes(self) -> tuple[SetSize, ...]:
        """Examples read, by set."""
        return tuple(SetSize(name, *counts) for name, counts in self._counts.items())

    def ngrams(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(first word, words, example) of every n-gram in the stream, int64 each."""
        units = np.asarray(self.units, np.int64).reshape(-1, 3)
        lengths = np.minimum(units[:, 1], self._settings.ngram)
        counts = units[:, 1] - lengths + 1
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return (
            np.repeat(units[:, 0], counts) + within, np.repeat(lengths, counts),
            np.repeat(units[:, 2], counts),
        )


_PUNCTUATION = str.maketrans(
    dict.fromkeys(c for c in map(chr, range(128)) if not (c.isalnum() or c.isspace()))
)
_ONE_BY_ONE = 64  # different signs that are removed one after another


def _grams(text: str) -> list[str]:
    """What lies between white space, lower-cased and without punctuation, if anything is left."""
    if text.isascii():
        return text.translate(_PUNCTUATION).lower().split()
    text = unicodedata.normalize("NFC", text)
    signs = [c for c in set(text) if not (c.isalnum() or c.isspace() or _in_words(c))]
    if len(signs) > _ONE_BY_ONE:
        return text.translate(str.maketrans(dict.fromkeys(signs))).lower().split()
    for sign in signs:  # faster than a table for text that is not ASCII
        text = text.replace(sign, "")
    return text.lower().split()


def _in_words(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM"


def _spans(text: str) -> list[tuple[int, int]]:
    """Where each of `_grams` lies in the text."""
    words = re.finditer(r"\S+", text)
    return [m.span() for m in words if m[0].isalnum() or any(map(_in_words, m[0]))]


def _outside(
    text: str, matched: Sequence[tuple[int, int]], window: int
) -> Iterator[tuple[int, int]]:
    """What the matches (ascending) and `window` characters around each leave, in whole words."""
    place = 0
    for start, end in matched:
        start = _word_start(text, start - window, place)
        if start > place:
            yield place, start
        place = max(place, _word_end(text, end + window))
    if place < len(text):
        yield place, len(text)


_SPACE = re.compile(r"\s")


def _word_start(text: str, at: int, least: int) -> int:
    while at > least and not text[at - 1].isspace() and not text[at].isspace():
        at -= 1
    return max(at, least)


def _word_end(text: str, at: int) -> int:
    if at >= len(text) or text[at - 1].isspace():
        return min(at, len(text))
    match = _SPACE.search(text, at)
    return match.start() if match else len(text)


_BASE = 0x9E3779B97F4A7C15  # odd, so that a product with it loses nothing


_POWERS = np.asarray([pow(_BASE, k, 2**64) for k in range(LONGEST)], np.uint64)


def _hashes(values: np.ndarray, n: int) -> np.ndarray:
    """Of the n words from each word on, uint64 [words - n + 1]: the sum of values x base^k."""
    total, have = values, 1
    for bit in bin(n)[3:]:  # twice as many words with every step, and one more where n says so
        total = total[:-have] + total[have:] * _POWERS[have]
        have *= 2
        if bit == "1":
            total = total[:-1] + values[have:] * _POWERS[have]
            have += 1
    return total


def _hashes_at(values: np.ndarray, starts: np.ndarray, n: int) -> np.ndarray:
    """Of the n words from each of `starts` on, uint64 [starts]."""
    total = np.zeros(len(starts), np.uint64)
    for k, power in enumerate(_POWERS[:n]):
        total += values[starts + k] * power
    return total


def _word_values(vocabulary: Iterable[str], seed: int) -> np.ndarray:
    """A number of 64 bits for every word, in the order of their ids, and one for unknown words."""
    values = [xxhash.xxh3_64_intdigest(b"", seed)]
    values += [xxhash.xxh3_64_intdigest(word.encode(), seed) for word in vocabulary]
    return np.asarray(values, np.uint64)


def _bits(ngrams: int) -> int:
    """Of the table that says which hashes may be in the index: one of 8 entries is taken."""
    return max(10, (8 * ngrams).bit_length())
