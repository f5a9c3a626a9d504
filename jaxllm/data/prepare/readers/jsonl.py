"""JSON lines: every line that is not blank is an object, whose field `input.text_field` is text."""

from __future__ import annotations

import json
from collections.abc import Iterator

from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Document, Part, Rejected
from jaxllm.data.prepare.readers.base import InputFile, Rows, decode, excerpt, too_long
from jaxllm.data.prepare.readers.streams import read_lines

# Packed files named .json hold lines, as those of C4 do; a .json itself is mostly one object.
ENDINGS = (".jsonl", ".ndjson", ".json.gz", ".json.zst")
OPTIONS = ("id_field", "source_field")


def read(
    file: InputFile, config: InputConfig, part: Part | None
) -> Iterator[Document | Rejected]:
    """A document for each row."""
    rows, limit = Rows(file, config), config.max_document_bytes
    for number, line, excess in read_lines(file, limit, part):
        if excess:
            yield rows.too_long(number, excess, line)
        elif not line.isspace():
            row = parse(f"{file.name}:{number}", line)
            yield row if isinstance(row, Rejected) else rows.take(number, row)


def read_rows(file: InputFile, config: InputConfig) -> Iterator[tuple[str, dict | Rejected]]:
    """The object of each line that is not blank, with its place in the file."""
    for number, line, excess in read_lines(file, config.max_document_bytes):
        name, place = f"{file.name}:{number}", f"line {number + 1}"
        if excess:
            yield place, too_long(name, excess, config.max_document_bytes, line)
        elif not line.isspace():
            yield place, parse(name, line)


def parse(name: str, record: bytes) -> dict | Rejected:
    """The object that a record holds; `name` is its id."""
    text = decode(name, record)
    if isinstance(text, Rejected):
        return text
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        detail = f"{error.msg} at column {error.pos + 1}"
        return Rejected(name, "bad_json", excerpt(detail, text, error.pos))
    except (RecursionError, ValueError) as error:  # nested too deep; a number of 5,000 digits
        return Rejected(name, "bad_json", excerpt(str(error).partition(";")[0], text))
    if not isinstance(row, dict):
        kind = type(row).__name__
        return Rejected(name, "not_an_object", excerpt(f"a JSON {kind}, no object", text))
    return row

