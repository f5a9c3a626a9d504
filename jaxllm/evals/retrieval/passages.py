"""Passages of a collection of text that are likest to a question.

The baseline of knowledge that is looked up and not trained. Documents are cut into passages of 100
words (Karpukhin et al. 2020, https://arxiv.org/abs/2004.04906). Texts and index are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Document, Rejected
from jaxllm.data.prepare.readers import find_files, read
from jaxllm.evals.retrieval.base import MakeIndex

WORDS = 100  # of a passage


class Passages:
    """The passages of a file or folder of text, with their index."""

    def __init__(self, source: str, make_index: MakeIndex):
        """Reads `source`: text, Markdown, JSON lines (the field `text`), and the other formats that
        `prepare` reads.

        Raises:
          UserError: it does not exist, is of no known format, is damaged, or holds no text.
        """
        self.texts = list(dict.fromkeys(_passages(source)))  # copies would fill the prompt
        if not self.texts:
            raise UserError(
                f"--retrieve_from={source}: no text is there. Name text files, or JSON lines with "
                "a field `text`."
            )
        self._index = make_index(self.texts)

    def likest(self, queries: Sequence[str], count: int) -> list[list[str]]:
        """At most `count` passages for each query, the likest first; what is not alike at all (it
        shares no word, or its embedding stands at a right angle) is none of them."""
        return [
            [self.texts[place] for place, score in ranked if score > 0]
            for ranked in self._index.rank(queries, count)
        ]


def _passages(source: str) -> Iterator[str]:
    config = InputConfig(paths=(source,))
    try:
        files = find_files(config)
    except UserError as error:
        raise UserError(str(error).replace("input.paths", "--retrieve_from")) from error
    for file in files:
        for document in read(file, config):
            if document.id == file.name and isinstance(document, Rejected):
                raise UserError(
                    f"--retrieve_from: {file.name} cannot be read to its end "
                    f"({document.reason}: {document.excerpt}). Mend it, or leave it out."
                )
            if isinstance(document, Document):  # a row that is none is not asked of
                words = document.text.split()
                for first in range(0, len(words), WORDS):
                    yield " ".join(words[first : first + WORDS])
