"""Parquet files, a batch of rows at a time, and of their columns only those that are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Document, Part, Rejected
from jaxllm.data.prepare.readers.base import BrokenFile, InputFile
from jaxllm.data.prepare.readers.columnar import batch_rows, check_columns, read_batches
from jaxllm.data.prepare.readers.streams import open_file

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ENDINGS = (".parquet",)
OPTIONS = ("id_field", "source_field")
BATCH_BYTES = 8 * 2**20
BATCH_ROWS = 1024


def read(
    file: InputFile, config: InputConfig, part: Part | None
) -> Iterator[Document | Rejected]:
    """A document for each row.

    Raises:
      UserError: a column that the configuration names is not there, or is no text.
    """
    with open_file(file) as stream:
        table = _open(stream)
        columns = check_columns(file, config, table.schema_arrow)
        batches = table.iter_batches(_batch_rows(table), columns=columns, use_threads=False)
        yield from read_batches(file, config, batches)


def read_rows(file: InputFile, config: InputConfig) -> Iterator[tuple[str, dict]]:
    """The columns of each row, with its place in the file."""
    with open_file(file) as stream:
        table = _open(stream)
        yield from batch_rows(table.iter_batches(_batch_rows(table), use_threads=False))


def _open(stream: BinaryIO) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # a buffer: column chunks, which may be of gigabytes, are then not read at once
        return pq.ParquetFile(stream, buffer_size=2**20, pre_buffer=False)
    except pa.ArrowException as error:
        raise BrokenFile("broken_file", str(error)) from error


def _batch_rows(table: pq.ParquetFile) -> int:
    """How many rows make about BATCH_BYTES, in the row group with the largest rows."""
    groups = [table.metadata.row_group(index) for index in range(table.num_row_groups)]
    row = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1)
    return min(BATCH_ROWS, max(1, int(BATCH_BYTES / max(row, 1))))
