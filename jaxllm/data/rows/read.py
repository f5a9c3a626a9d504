"""The rows of files of any format that `prepare` reads, each with its place for the errors."""

from __future__ import annotations

from collections.abc import Iterator

from jaxllm.core.errors import UserError
from jaxllm.core.paths import path
from jaxllm.data.config import SourceConfig
from jaxllm.data.manifest import FILE as MANIFEST
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Rejected
from jaxllm.data.prepare.readers.base import BrokenFile, InputFile
from jaxllm.data.prepare.readers.files import expand
from jaxllm.data.prepare.readers.registry import row_format_of, row_formats
from jaxllm.data.rows.row import BadRow, Row


def is_prepared(folder: str) -> bool:
    """Whether a source is what `jaxllm prepare` wrote, and not rows."""
    return (path(folder) / MANIFEST).exists()


def read_rows(name: str, source: SourceConfig, field: str) -> Iterator[Row | BadRow]:
    """The rows of a file, a folder or a glob, in their order; `field` is named in the errors.

    Raises:
      UserError: nothing is there, or a file that cannot be read to its end.
    """
    config = InputConfig(
        paths=(name,), csv_columns=source.csv_columns, csv_delimiter=source.csv_delimiter,
        csv_quotes=source.csv_quotes,
    )
    for file, shown in expand(name, field, row_format_of):
        kind = row_format_of(file.name)
        if kind is None:
            raise UserError(
                f"{field}={name!r}: the format of {shown} cannot be told from its ending. Rename "
                "it to end in .jsonl, .json, .csv, .tsv, .parquet, .arrow or .conll."
            )
        entry = InputFile(file, shown, kind, file.stat().length, name)
        try:
            yield from _file_rows(entry, config)
        except BrokenFile as error:
            raise UserError(
                f"{field}: {shown} cannot be read ({error}). Mend the file, or leave it out."
            ) from error
        except OSError as error:
            raise UserError(f"{field}: {shown} cannot be read: {error}.") from error


def _file_rows(file: InputFile, config: InputConfig) -> Iterator[Row | BadRow]:
    module = row_formats()[file.format]
    if hasattr(module, "read_rows"):
        found = module.read_rows(file, config)
    else:
        found = (
            (f"document {number}", one if isinstance(one, Rejected) else {"text": one.text})
            for number, one in enumerate(module.read(file, config, None), 1)
        )
    for place, row in found:
        where = f"{file.name}, {place}"
        if isinstance(row, Rejected):
            yield BadRow(where, f"{row.reason}: {row.excerpt}")
        else:
            yield Row(where, row)
