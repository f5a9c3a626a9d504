"""What a reader gives: documents, rejected records, and the parts of a file it reads them from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """A text on its way through `prepare`."""

    id: str  # "NAME:NUMBER": the file's name and the row in it, counted from 0
    text: str
    source: str  # what shares are counted by: the file's name, or a field of the row
    group: str = ""  # documents of one group fall into one split; "": the text alone decides


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that cannot be read as a document: it goes to the quarantine file."""

    id: str  # as a document's
    reason: str  # in snake_case, such as not_json
    excerpt: str  # its beginning, for a person to recognise it; at most EXCERPT characters


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes `start` to `end` (exclusive) of a file whose rows are lines.

    A part begins where a line begins and ends where a line ends, so a reader seeks to `start` and
    reads `end - start` bytes. `row` lines lie before it: the first line in it is number `row`.
    """

    start: int
    end: int
    row: int = 0


EXCERPT = 200  # characters of a rejected record that are kept


def replaced(document: Document, text: str) -> Document:
    """The document with another text."""
    if text == document.text:
        return document
    return Document(document.id, text, document.source, document.group)
