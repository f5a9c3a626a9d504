"""Documents of files of many formats, one at a time. One file for each format, found by its name.

What cannot be read as a document comes as a `Rejected` with the reason, and reading goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Document, Part, Rejected
from jaxllm.data.prepare.readers.base import BrokenFile, InputFile, excerpt
from jaxllm.data.prepare.readers.files import find_files
from jaxllm.data.prepare.readers.registry import format_module, formats

__all__ = ["InputFile", "check_beginnings", "find_files", "formats", "has_line_rows", "read"]


def read(
    file: InputFile, config: InputConfig, part: Part | None = None
) -> Iterator[Document | Rejected]:
    """The documents of a file in order, some of which may be blank, and what cannot be read.

    `part` is for files with a row a line (`has_line_rows`) that are not packed.

    A document's id is "NAME:NUMBER". NUMBER counts from 0: lines of text and JSONL (the first line
    of a paragraph), data rows of tables, records, elements of XML; a file that is one document
    has 0. When the rest of a file is unreadable, its last item is a `Rejected` with the id "NAME".

    Raises:
      UserError: the file cannot be opened, has no column of text as `input.text_field` asks, or
        needs a library that is not installed.
    """
    if part is not None and not has_line_rows(file, config):
        raise ValueError(f"{file.name} of format {file.format} is read whole")
    if not file.bytes:
        yield Rejected(file.name, "empty_file", "the file has no bytes")
        return
    try:
        yield from format_module(file.format).read(file, config, part)
    except BrokenFile as error:
        yield Rejected(file.name, error.reason, excerpt(error.detail))
    except OSError as error:  # bz2 and Arrow say in this way that the content is bad
        yield Rejected(file.name, "broken_file", excerpt(str(error)))


def check_beginnings(files: Iterable[InputFile], config: InputConfig) -> None:
    """Reads the first document of each entry of `input.paths` and each format in it, so that a
    column that is missing is told now and not when hours of other files have been read.

    Raises:
      UserError: as `read`.
    """
    seen = set()
    for file in files:
        if file.bytes and (file.source, file.format) not in seen:
            seen.add((file.source, file.format))
            next(read(file, config), None)


def has_line_rows(file: InputFile, config: InputConfig) -> bool:
    """Whether a row is a line of its own, so that parts of the file can be read by themselves.

    Duplicate ids (`input.id_field`) are found in what is read at once, so JSONL is then read whole.
    """
    if file.format == "jsonl":
        return not config.id_field
    return file.format == "text" and config.document == "line"
