"""CSV and TSV files: a header line with the columns' names, then a document for each row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import EXCERPT, Document, Part, Rejected
from jaxllm.data.prepare.readers.base import MISSING, InputFile, Rows, decode, missing_column
from jaxllm.data.prepare.readers.streams import read_lines

ENDINGS = (".csv", ".tsv")
OPTIONS = ("csv_columns", "csv_delimiter", "csv_quotes", "id_field", "source_field")


class _LongLine(Exception):
    """A line of so many bytes, more than a document may have, and its beginning."""


class _Lines:
    """Lines as text, bytes that are no UTF-8 being kept as surrogates. One that is too long raises,
    and the next call goes on behind it, which a generator could not."""

    def __init__(self, file: InputFile, limit: int):
        self._lines = read_lines(file, limit)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        _, line, excess = next(self._lines)
        if excess:
            raise _LongLine(excess, line)
        return line.decode(errors="surrogateescape")


def read(
    file: InputFile, config: InputConfig, part: Part | None
) -> Iterator[Document | Rejected]:
    """The documents; a row whose number of fields is not that of the columns is rejected.

    Raises:
      UserError: a column that the configuration names is not there, or no delimiter.
    """
    rows, (table, columns) = Rows(file, config), _table(file, config)
    text, key, source = _places(file, config, columns)
    for number, row in _fields(rows, table, columns, config):
        if isinstance(row, Rejected):
            yield row
        else:
            yield rows.document(
                number, _bytes(row[text]),
                MISSING if key is None else _bytes(row[key]),
                MISSING if source is None else _bytes(row[source]),
            )


def read_rows(
    file: InputFile, config: InputConfig
) -> Iterator[tuple[str, dict[str, str] | Rejected]]:
    """The fields of each row by their columns, with the line in which it ends.

    Raises:
      UserError: no delimiter, or no header.
    """
    rows, (table, columns) = Rows(file, config), _table(file, config)
    for number, row in _fields(rows, table, columns, config):
        if not isinstance(row, Rejected):
            texts = [decode(f"{file.name}:{number}", _bytes(field)) for field in row]
            bad = next((text for text in texts if isinstance(text, Rejected)), None)
            row = bad or dict(zip(columns, texts, strict=True))
        yield f"line {table.line_num}", row


def _table(file: InputFile, config: InputConfig) -> tuple[Any, list[str]]:
    """The library's reader, at the first row of data, and the columns' names."""
    limit = config.max_document_bytes
    # the library has one limit for the process, and stops at 128 KiB without this
    csv.field_size_limit(max(limit, csv.field_size_limit()))
    quoting = csv.QUOTE_MINIMAL if config.csv_quotes else csv.QUOTE_NONE
    table = csv.reader(
        _Lines(file, limit), delimiter=_delimiter(file, config), strict=True, quoting=quoting
    )
    return table, list(config.csv_columns) or _header(file, table)


def _fields(
    rows: Rows, table: Any, columns: list[str], config: InputConfig
) -> Iterator[tuple[int, list[str] | Rejected]]:
    """Number and fields of each row."""
    number = 0
    while True:
        try:
            row = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            hint = " (set input.csv_quotes=False if quotes mean nothing)" * config.csv_quotes
            yield number, rows.rejected(number, "bad_csv", f"{error}{hint}")
        except _LongLine as error:
            yield number, rows.too_long(number, *error.args)
        else:
            if not row:
                continue
            if len(row) != len(columns):
                detail = f"{len(row)} fields for {len(columns)} columns"
                excerpt = " | ".join(row)[:EXCERPT]
                yield number, rows.rejected(number, "bad_csv", detail, excerpt)
            else:
                yield number, row
        number += 1


def _delimiter(file: InputFile, config: InputConfig) -> str:
    if given := config.csv_delimiter:
        if len(given) > 1 or given in "\r\n\"":
            raise UserError(
                f"input.csv_delimiter={given!r} must be one character, such as ';', and neither a "
                "quote nor a line end."
            )
        return given
    return "\t" if ".tsv" in file.path.name.lower() else ","


def _header(file: InputFile, table: Iterator[list[str]]) -> list[str]:
    try:
        header = next(table, [])
    except (csv.Error, _LongLine) as error:
        reason = error if isinstance(error, csv.Error) else f"it has {error.args[0]:,} bytes"
        raise UserError(
            f"{file.name}: its first line cannot be read as the columns' names: {reason}. Set "
            "input.csv_delimiter or input.csv_quotes as the file needs, or leave the file out."
        ) from error
    return [_bytes(name).decode(errors="backslashreplace") for name in header]


def _places(
    file: InputFile, config: InputConfig, columns: list[str]
) -> tuple[int, int | None, int | None]:
    """Where the text, the id and the source stand in a row."""
    places = []
    for field in ("text_field", "id_field", "source_field"):
        name = getattr(config, field)
        if name and name not in columns:
            raise missing_column(file, field, name, columns)
        places.append(columns.index(name) if name else None)
    return tuple(places)


def _bytes(value: str) -> bytes:
    return value.encode(errors="surrogateescape")
