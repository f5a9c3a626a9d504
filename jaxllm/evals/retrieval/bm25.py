"""BM25: texts ranked by the words that they share with a query (Robertson and Zaragoza 2009)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import ModuleType

from jaxllm.evals.extras import need


def library() -> ModuleType:
    """The library bm25s, without the lines that it logs.

    Raises:
      UserError: it is not installed.
    """
    found = need("bm25s", "Retrieval by BM25")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets its own when it is imported
    return found


class Bm25:
    """An index of the words of texts, in memory; what shares no word has the score 0."""

    def __init__(self, texts: Sequence[str]):
        """Raises UserError where bm25s is not installed."""
        self._library, self._count = library(), len(texts)
        self._index, words = self._library.BM25(), self._words(texts)
        self._empty = not any(words)  # the library cannot index texts without any word
        if not self._empty:
            self._index.index(words, show_progress=False)

    def rank(self, queries: Sequence[str], count: int) -> list[list[tuple[int, float]]]:
        """See Index; a query without a word is like no text."""
        return [self._ranked(query, min(count, self._count)) for query in queries]

    def _ranked(self, query: str, count: int) -> list[tuple[int, float]]:
        words = self._words([query])
        if self._empty or not words[0]:
            return [(place, 0.0) for place in range(count)]
        found = self._index.retrieve(words, k=count, show_progress=False)
        return list(zip(found.documents[0].tolist(), found.scores[0].tolist(), strict=True))

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        return self._library.tokenize(
            list(texts), stopwords=None, return_ids=False, show_progress=False
        )
