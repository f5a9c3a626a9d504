"""Passages of a collection of text that are likest to a question, by the words they share.

The baseline of knowledge that is looked up and not trained. Documents are cut into passages of 100
words (Karpukhin et al. 2020, https://arxiv.org/abs/2004.04906) and ranked by BM25 (Robertson and
Zaragoza 2009). Texts and index are in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import ModuleType

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Document
from jaxllm.data.prepare.readers.files import find_files
from jaxllm.data.prepare.readers.registry import format_module
from jaxllm.evals.extras import need

WORDS = 100  # of a passage


def bm25(what: str) -> ModuleType:
    """The library bm25s, which `what` needs, without the lines that it logs.

    Raises:
      UserError: it is not installed.
    """
    library = need("bm25s", what)
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets its own when it is imported
    return library


class Passages:
    """The passages of a file or folder of text, with their index."""

    def __init__(self, source: str):
        """Reads `source`: text, Markdown, JSON lines (the field `text`), and the other formats that
        `prepare` reads.

        Raises:
          UserError: it does not exist, is of no known format, or holds no text; or bm25s is not
            installed.
        """
        self._library = bm25("retrieval")
        self.texts = list(dict.fromkeys(_passages(source)))  # copies would fill the prompt
        if not self.texts:
            raise UserError(
                f"--retrieve_from={source}: no text is there. Name text files, or JSON lines with "
                "a field `text`."
            )
        self._index = self._library.BM25()
        self._index.index(self._words(self.texts), show_progress=False)

    def likest(self, query: str, count: int) -> list[str]:
        """At most `count` passages that share words with the query, the likest first."""
        words = self._words(query)
        if not words[0]:
            return []
        found = self._index.retrieve(
            words, k=min(count, len(self.texts)), show_progress=False
        )
        pairs = zip(found.documents[0].tolist(), found.scores[0].tolist(), strict=True)
        return [self.texts[place] for place, score in pairs if score > 0]

    def _words(self, texts: str | list[str]) -> list[list[str]]:
        return self._library.tokenize(
            texts, stopwords=None, return_ids=False, show_progress=False
        )


def _passages(source: str) -> Iterator[str]:
    config = InputConfig(paths=(source,))
    try:
        files = find_files(config)
    except UserError as error:
        raise UserError(str(error).replace("input.paths", "--retrieve_from")) from error
    for file in files:
        for document in format_module(file.format).read(file, config, None):
            if isinstance(document, Document):  # what cannot be read is not asked of
                words = document.text.split()
                for first in range(0, len(words), WORDS):
                    yield " ".join(words[first : first + WORDS])
