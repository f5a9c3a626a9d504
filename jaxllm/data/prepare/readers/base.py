"""What the readers share: the files to read, and how a record becomes a document or is rejected."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from etils import epath

from jaxllm.core.errors import UserError, install, nearest
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import EXCERPT, Document, Rejected

BEFORE = 40  # what an excerpt shows before the place that is wrong
MISSING = object()


@dataclass(frozen=True)
class InputFile:
    """A file to read."""

    path: epath.Path
    name: str  # as the user wrote it: the same on every machine
    format: str  # the name of a file in this package
    bytes: int
    source: str = ""  # the entry of `input.paths` that named it


class BrokenFile(Exception):
    """The rest of a file cannot be read: the documents before are good, and reading goes on with
    the next file."""

    def __init__(self, reason: str, detail: str):
        """`reason` as of a Rejected."""
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Rows:
    """Makes the rows of one file documents. Holds 8 bytes of hash of each row's id when
    `input.id_field` is set, about 100 bytes of memory a row."""

    def __init__(self, file: InputFile, config: InputConfig):
        self._file, self._config = file, config
        self._seen: set[bytes] = set()

    def take(self, number: int, row: Mapping[str, Any]) -> Document | Rejected:
        """The document of a row given by its fields; texts may be UTF-8 bytes."""
        config = self._config
        text = lookup(row, config.text_field)
        if not isinstance(text, str | bytes):
            return self._no_text(number, row, text)
        key = lookup(row, config.id_field) if config.id_field else MISSING
        source = lookup(row, config.source_field) if config.source_field else MISSING
        return self.document(number, text, key, source)

    def document(
        self, number: int, text: str | bytes, key: object = MISSING, source: object = MISSING
    ) -> Document | Rejected:
        """The document of a row with its own id and source, where it has them."""
        name = f"{self._file.name}:{number}"
        if len(text) > self._config.max_document_bytes:
            return self.too_long(number, len(text), text)
        text = decode(name, text) if isinstance(text, bytes) else _encodable(name, text)
        if isinstance(text, Rejected):
            return text
        if (own := _plain(key)) and self._is_known(own):
            detail = f"{self._config.id_field}={own!r} was there before"
            return Rejected(name, "duplicate_id", excerpt(detail, text))
        return Document(name, text, _plain(source) or self._file.source)

    def rejected(self, number: int, reason: str, detail: str, record: bytes | str = "") -> Rejected:
        """The row cannot be read."""
        return Rejected(f"{self._file.name}:{number}", reason, excerpt(detail, record))

    def too_long(self, number: int, size: int, record: bytes | str) -> Rejected:
        """The row is of more bytes than may be held."""
        name = f"{self._file.name}:{number}"
        return too_long(name, size, self._config.max_document_bytes, record)

    def _is_known(self, key: str) -> bool:
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        known = digest in self._seen
        self._seen.add(digest)
        return known

    def _no_text(self, number: int, row: Mapping[str, Any], value: object) -> Rejected:
        field = self._config.text_field
        texts = [name for name, value in row.items() if isinstance(value, str | bytes)]
        there = f"fields with text: {', '.join(texts) or 'none'}"
        if value is MISSING:
            return self.rejected(number, "no_text_field", f"{field!r} is missing; {there}")
        kind = "null" if value is None else type(value).__name__
        return self.rejected(number, "not_text", f"{field!r} is {kind}; {there}")


def lookup(row: Mapping[str, Any], field: str) -> Any:
    """The value of a field, or MISSING; `meta.source` is the field `source` of `meta`, unless a
    field has that very name."""
    if field in row:
        return row[field]
    head, dot, rest = field.partition(".")
    inner = row.get(head) if dot else None
    return lookup(inner, rest) if isinstance(inner, Mapping) else MISSING


def decode(name: str, data: bytes) -> str | Rejected:
    """The text of UTF-8 bytes; `name` is the record's id."""
    if (at := data.find(b"\0")) >= 0:
        detail = f"byte {at} is 0: binary data, or UTF-16"
        return Rejected(name, "null_bytes", excerpt(detail, data, at))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        at = error.start
        detail = f"byte {at} is 0x{data[at]:02x}"
        return Rejected(name, "invalid_utf8", excerpt(detail, data, at))


def too_long(name: str, size: int, limit: int, record: bytes | str, hint: str = "") -> Rejected:
    """The record is of more bytes than may be held."""
    detail = f"{size:,} bytes are more than input.max_document_bytes={limit}{hint}"
    return Rejected(name, "too_long", excerpt(detail, record))


def excerpt(detail: str, record: bytes | str = "", at: int = 0) -> str:
    """What is wrong, and the record around the place `at`."""
    begin = max(0, at - BEFORE)
    piece = record[begin : begin + EXCERPT]
    if isinstance(piece, str):
        piece = piece.encode(errors="backslashreplace")
    shown = piece.decode(errors="backslashreplace").replace("\0", "\\x00").rstrip()
    return (f"{detail}: {shown}" if shown else detail)[:EXCERPT]


def missing_column(file: InputFile, field: str, name: str, columns: Iterable[str]) -> UserError:
    """The error for a table without the column `name` that input.`field` asks for."""
    names = list(columns)
    near = nearest(name, names, listed=False)
    return UserError(
        f"input.{field}={name!r}: {file.name} has no such column. Its columns are "
        f"{', '.join(names[:50]) or 'none'}. {near or 'Name one of them, or leave the file out.'}"
    )


def library(module: str, what: str) -> ModuleType:
    """An optional library, which reading `what` needs.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"input.paths: reading {what} needs the library {module}, which is not installed. "
            f"{install('prep')}"
        ) from error


def _encodable(name: str, text: str) -> str | Rejected:
    """The text, unless it cannot be written as UTF-8: JSON may escape half a surrogate pair."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        at = error.start
        detail = f"character {at} is half a surrogate pair, which is no Unicode text"
        return Rejected(name, "lone_surrogate", excerpt(detail, text, at))
    return text


def _plain(value: object) -> str:
    """The value of a field that is an id or a source as valid text, "" if there is none."""
    if value is MISSING or value is None:
        return ""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if text.isascii() else text.encode(errors="replace").decode()
