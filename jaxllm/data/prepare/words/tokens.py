"""Words as the quality rules count them: punctuation apart, English contractions in two.

The rules of C4, Gopher and FineWeb are thresholds on counts of words, so who counts other words
decides otherwise. The usual implementations count the tokens of spaCy's rule-based English
tokenizer; this file gives the same tokens without spaCy. What stands between white space (a chunk)
is split by itself, so a table remembers the chunks that were seen, and a document costs a look-up
for each chunk. Every rule works on whole arrays of the table's columns.

Time is linear in the text: a chunk's ends are stripped a bounded tail at a time, and the table
only remembers short chunks.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from itertools import chain

import numpy as np

from jaxllm.data.prepare.words.chunks import SENTENCE_END, SYMBOLS, split_chunk

REMEMBERED = 48  # characters of the longest chunk that the table keeps
TABLE_ENTRIES = 2**18  # a table with more chunks, tokens or characters is begun anew
TABLE_CHARACTERS = 2**24
BASE = np.uint64(0x9E3779B97F4A7C15)  # of the polynomials that tell n-grams apart
SLICE = 64  # chunks that `sentences` looks at before it asks whether it is enough
# Kinds of tokens: one that ends a sentence, other punctuation, anything else.
END, MARK, WORD = b"\0", b"\1", b"\2"
COLUMNS = (  # of the table, one row a token
    ("length", np.int64),  # characters
    ("spoken", np.bool_),  # a character is not a symbol
    ("letters", np.bool_),  # a character is a letter
)


class Table(dict):
    """From a chunk to the numbers of its tokens; what is known of token i is row i of `columns`.

    It is a memory of pure functions: no result depends on what it has seen before, except for the
    numbers themselves.
    """

    def __init__(self):
        self.tokens: dict[str, int] = {}
        self.kinds = bytearray()
        self.characters = 0
        self.columns = {name: np.zeros(4096, dtype) for name, dtype in COLUMNS}
        self._found: dict[frozenset[str], frozenset[int]] = {}

    def __missing__(self, chunk: str) -> tuple[int, ...]:
        numbers = tuple(self.number(token) for token in split_chunk(chunk))
        if len(chunk) <= REMEMBERED:
            self[chunk] = numbers
        return numbers

    def number(self, token: str) -> int:
        """The token's row, which is added when the token is new."""
        number = self.tokens.get(token)
        if number is None:
            number = self.tokens[token] = len(self.tokens)
            self._add(token, number)
        return number

    def find(self, words: frozenset[str]) -> frozenset[int]:
        """The rows of these words."""
        if words not in self._found:
            self._found[words] = frozenset(map(self.number, words))
        return self._found[words]

    @property
    def full(self) -> bool:
        """Whether it should be replaced before the next document."""
        return (
            max(len(self), len(self.tokens)) > TABLE_ENTRIES or self.characters > TABLE_CHARACTERS
        )

    def _add(self, token: str, number: int) -> None:
        if number == len(self.columns["length"]):
            for name, column in self.columns.items():
                self.columns[name] = np.concatenate([column, np.zeros_like(column)])
        self.columns["length"][number] = len(token)
        if token.isalpha():
            spoken, letters, kind = True, True, WORD
        else:
            spoken, letters = not SYMBOLS.issuperset(token), any(map(str.isalpha, token))
            kind = WORD if letters else _kind(token)
        self.columns["spoken"][number] = spoken
        self.columns["letters"][number] = letters
        self.kinds += kind
        self.characters += len(token)


class _Memory(threading.local):
    """A table for each thread: numbers given by two threads at once would not be unique."""

    def __init__(self):
        self.table = Table()


_memory = _Memory()


def table() -> Table:
    """This thread's table."""
    if _memory.table.full:
        _memory.table = Table()
    return _memory.table


class Tokens:
    """The tokens of a text of N tokens, as arrays [N]; their n-grams as [N - n + 1]."""

    def __init__(self, chunks: Iterable[str]):
        self._table = table()
        numbers = chain.from_iterable(map(self._table.__getitem__, chunks))
        self.ids = np.fromiter(numbers, np.int64)
        self._keys = (1, self.ids.view(np.uint64))  # of the n asked for last: they are large
        self._ordered = (0, self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Characters of each."""
        return self._table.columns["length"][self.ids]

    @cached_property
    def spoken(self) -> np.ndarray:
        """Which are more than symbols and punctuation."""
        return self._table.columns["spoken"][self.ids]

    @cached_property
    def letters(self) -> np.ndarray:
        """Which have a letter."""
        return self._table.columns["letters"][self.ids]

    def distinct(self, words: frozenset[str]) -> int:
        """How many of these words occur."""
        return len(self._table.find(words).intersection(self.ids.tolist()))

    @cached_property
    def _ends(self) -> np.ndarray:
        ends = np.zeros(len(self.ids) + 1, np.int64)
        np.cumsum(self.lengths, out=ends[1:])
        return ends

    def widths(self, n: int) -> np.ndarray:
        """Characters of each n-gram, without white space."""
        return self._ends[n:] - self._ends[:-n]

    def keys(self, n: int) -> np.ndarray:
        """A 64-bit hash of each n-gram: a polynomial of its tokens' numbers."""
        ids = self.ids.view(np.uint64)
        size, keys = self._keys if self._keys[0] <= n else (1, ids)
        while size < n:
            keys = keys[:-1] * BASE + ids[size:]
            size += 1
        self._keys = (n, keys)
        return keys

    def ordered(self, n: int) -> np.ndarray:
        """The keys, sorted."""
        if self._ordered[0] != n:
            self._ordered = (n, np.sort(self.keys(n)))
        return self._ordered[1]

    def repeats(self, n: int, times: int = 1) -> int:
        """How many n-grams come after `times` equal ones: 0 when none occurs more often."""
        ordered = self.ordered(n)
        if times >= len(ordered):
            return 0
        return int(np.count_nonzero(ordered[times:] == ordered[:-times]))


def sentences(text: str, limit: int) -> int:
    """How many sentences a line has, counted up to `limit`: at least 1.

    One begins with the first word after a token that is a full stop or the like; so `Mr.` and
    `3.5`, being one token, end none.
    """
    memory, chunks = table(), text.split()
    number, kind = memory.__getitem__, memory.kinds.__getitem__
    count, before = 1, b""
    for start in range(0, len(chunks), SLICE):
        numbers = chain.from_iterable(map(number, chunks[start: start + SLICE]))
        kinds = before + bytes(map(kind, numbers)).replace(MARK, b"")
        count += kinds.count(END + WORD)
        if count >= limit:
            break
        before = kinds[-1:]
    return count


def _kind(token: str) -> bytes:
    if token in SENTENCE_END:
        return END
    if all(unicodedata.category(c).startswith("P") for c in token):
        return MARK
    return WORD
