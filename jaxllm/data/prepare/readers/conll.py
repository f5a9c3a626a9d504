"""CoNLL files, of words and their tags: rows `tokens` and `tags` for token classification.

A word a line, its columns divided by tabs, or by spaces where there are none; the first is the
word, the last its tag. A blank line ends a sentence. Comments of CoNLL-U ("# text = …") and
-DOCSTART- lines are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Rejected
from jaxllm.data.prepare.readers.base import InputFile, decode, excerpt
from jaxllm.data.prepare.readers.streams import read_lines

ROW_ENDINGS = (".conll", ".conll2003", ".conllu", ".iob", ".iob2", ".bio")
DOCUMENT = "-DOCSTART-"


def read_rows(file: InputFile, config: InputConfig) -> Iterator[tuple[str, dict | Rejected]]:
    """The sentences, with the line in which each begins."""
    first, tokens, tags = 0, [], []
    for number, line, _ in read_lines(file, config.max_document_bytes):
        place, text = f"line {number + 1}", decode(file.name, line.rstrip(b"\r\n"))
        if isinstance(text, Rejected):
            yield place, text
            continue
        if not text.strip():
            if tokens:
                yield f"line {first}", {"tokens": tokens, "tags": tags}
            tokens, tags = [], []
            continue
        columns = text.split("\t") if "\t" in text else text.split()
        if columns[0] == DOCUMENT or text.startswith("# "):
            continue
        if len(columns) < 2 or not columns[0].strip() or not columns[-1].strip():
            yield place, Rejected(file.name, "no_tag", excerpt("a word and its tag are due", text))
            continue
        first = first if tokens else number + 1
        tokens.append(columns[0])
        tags.append(columns[-1].strip())
    if tokens:
        yield f"line {first}", {"tokens": tokens, "tags": tags}
