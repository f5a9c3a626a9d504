"""Text files: a document is the file, a paragraph of it, or a line."""

from __future__ import annotations

from collections.abc import Iterator

from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Document, Part, Rejected
from jaxllm.data.prepare.readers.base import InputFile, decode, too_long
from jaxllm.data.prepare.readers.streams import read_lines, read_whole

ENDINGS = (".txt", ".text", ".md")
OPTIONS = ()  # `document` has a value in every recipe
HINT = ". Make documents smaller (input.document=paragraph or line)"


def read(
    file: InputFile, config: InputConfig, part: Part | None
) -> Iterator[Document | Rejected]:
    """The documents as `input.document` cuts them. Lines and paragraphs come without their end."""
    if config.document == "file":
        return iter([_whole(file, config)])
    if config.document == "line":
        return _lines(file, config, part)
    return _paragraphs(file, config)


def _whole(file: InputFile, config: InputConfig) -> Document | Rejected:
    data = read_whole(file, config.max_document_bytes, HINT)
    return data if isinstance(data, Rejected) else _document(file, 0, data)


def _document(file: InputFile, number: int, data: bytes) -> Document | Rejected:
    name = f"{file.name}:{number}"
    text = decode(name, data)
    return text if isinstance(text, Rejected) else Document(name, text, file.source)


def _lines(
    file: InputFile, config: InputConfig, part: Part | None
) -> Iterator[Document | Rejected]:
    limit = config.max_document_bytes
    for number, line, excess in read_lines(file, limit, part):
        if excess:
            yield too_long(f"{file.name}:{number}", excess, limit, line)
        else:
            yield _document(file, number, line.rstrip(b"\r\n"))


def _paragraphs(file: InputFile, config: InputConfig) -> Iterator[Document | Rejected]:
    """Text between blank lines, without the line end before them."""
    limit = config.max_document_bytes
    lines: list[bytes] = []
    first = total = 0
    for number, line, excess in read_lines(file, limit):
        if _is_blank(line):
            if lines:
                yield _paragraph(file, config, first, lines, total)
            lines, total = [], 0
            continue
        if not lines:
            first = number
        total += excess or len(line)
        if not lines or total <= limit + len(b"\r\n"):  # else it is too long
            lines.append(line)
    if lines:
        yield _paragraph(file, config, first, lines, total)


def _paragraph(
    file: InputFile, config: InputConfig, number: int, lines: list[bytes], total: int
) -> Document | Rejected:
    data = b"".join(lines)
    text, limit = data.rstrip(b"\r\n"), config.max_document_bytes
    if total - (len(data) - len(text)) > limit:
        return too_long(f"{file.name}:{number}", total, limit, data)
    return _document(file, number, text)


def _is_blank(line: bytes) -> bool:
    """Whether there is only white space, that beyond ASCII too."""
    if line.isspace():
        return True
    try:
        return not line.decode().strip()
    except UnicodeDecodeError:
        return False
