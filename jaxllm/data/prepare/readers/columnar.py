"""Documents of Arrow record batches, for the formats that come as such."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Document, Rejected
from jaxllm.data.prepare.readers.base import MISSING, BrokenFile, InputFile, Rows, missing_column

if TYPE_CHECKING:
    import pyarrow as pa

FIELDS = ("text_field", "id_field", "source_field")


def check_columns(file: InputFile, config: InputConfig, schema: pa.Schema) -> list[str]:
    """The columns to read, as `meta.source` where one is a field of another.

    Raises:
      UserError: a column is not there, or that of the text is no text.
    """
    texts = [column.name for column in schema if _is_text(column.type)]
    names = []
    for field in FIELDS:
        if not (name := getattr(config, field)):
            continue
        kind = _type(schema, name)
        if kind is None:
            raise missing_column(file, field, name, schema.names)
        if field == "text_field" and not _is_text(kind):
            raise UserError(
                f"input.text_field={name!r}: in {file.name} that column is {kind}, no text. "
                f"Columns with text: {', '.join(texts) or 'none'}."
            )
        names.append(name)
    return names


def read_batches(
    file: InputFile, config: InputConfig, batches: Iterable[pa.RecordBatch]
) -> Iterator[Document | Rejected]:
    """A document for each row.

    Raises:
      BrokenFile: a batch cannot be read.
    """
    import pyarrow as pa

    rows, number = Rows(file, config), 0
    try:
        for batch in batches:
            text = _values(batch, config.text_field, as_bytes=True)
            key = _values(batch, config.id_field)
            source = _values(batch, config.source_field)
            for index in range(batch.num_rows):
                value = text(index)
                if value is None:
                    detail = f"{config.text_field!r} is null"
                    yield rows.rejected(number, "not_text", detail)
                else:
                    yield rows.document(number, value, key(index), source(index))
                number += 1
    except pa.ArrowException as error:
        raise BrokenFile("broken_file", f"behind row {number}: {error}") from error


def batch_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, dict]]:
    """The columns of each row, with its place.

    Raises:
      BrokenFile: a batch cannot be read.
    """
    import pyarrow as pa

    number = 0
    try:
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", {name: _present(value) for name, value in row.items()}
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise BrokenFile("broken_file", f"behind row {number}: {error}") from error


def _present(value: Any) -> Any:
    """A value without the fields that are null in it: a struct has those of all rows."""
    if isinstance(value, dict):
        return {name: _present(one) for name, one in value.items() if one is not None}
    return [_present(one) for one in value] if isinstance(value, list) else value


def _values(
    batch: pa.RecordBatch, name: str, as_bytes: bool = False
) -> Callable[[int], object]:
    """The values of a column by their row. One at a time: a batch may hold large ones."""
    if not name:
        return lambda index: MISSING
    column = _column(batch, name)
    if as_bytes or _is_text(column.type):  # what a file calls UTF-8 is not always
        column = _as_binary(column)
    return lambda index: column[index].as_py()


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    import pyarrow.compute as pc

    if name in batch.schema.names:
        return batch.column(name)
    head, *rest = name.split(".")
    column = batch.column(head)
    for part in rest:
        column = pc.struct_field(column, part)
    return column


def _type(schema: pa.Schema, name: str) -> pa.DataType | None:
    import pyarrow.types as types

    if name in schema.names:
        return schema.field(name).type
    head, *rest = name.split(".")
    if not rest or head not in schema.names:
        return None
    kind = schema.field(head).type
    for part in rest:
        if not types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return kind


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return any(test(kind) for test in (
        types.is_string, types.is_large_string, types.is_string_view, types.is_binary,
        types.is_large_binary, types.is_binary_view,
    ))


def _as_binary(column: pa.Array) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_binary())
