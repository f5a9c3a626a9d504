"""ArrayRecord files whose records are texts, JSON objects, or tf.train.Example.

The first record shows which of them (`input.record_format=auto`): an Example, as TFDS and most
training systems write them, then an object with the field `input.text_field`, else UTF-8 text.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxllm.core.errors import UserError, unknown
from jaxllm.core.paths import in_bucket
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Document, Part, Rejected
from jaxllm.data.prepare.readers import jsonl
from jaxllm.data.prepare.readers.base import MISSING, BrokenFile, InputFile, Rows, lookup
from jaxllm.data.prepare.readers.streams import BLOCK, open_file

ENDINGS = (".array_record", ".arrayrecord")
OPTIONS = ("id_field", "source_field", "record_format")
RECORD_FORMATS = ("auto", "text", "json", "example")
IN_ORDER = "readahead_buffer_size:0,max_parallelism:0"  # 5 times the default's speed
Take = Callable[[int, bytes], Document | Rejected]


def read(
    file: InputFile, config: InputConfig, part: Part | None
) -> Iterator[Document | Rejected]:
    """A document for each record.

    Raises:
      UserError: `input.record_format` is unknown, or the first record is an object without the
        text field.
    """
    if config.record_format not in RECORD_FORMATS:
        raise unknown("input.record_format", config.record_format, RECORD_FORMATS)
    take = None
    with _local(file) as name:
        for number, record in enumerate(_records(name)):
            take = take or _take(file, config, record)
            yield take(number, record)


def read_rows(file: InputFile, config: InputConfig) -> Iterator[tuple[str, dict | Rejected]]:
    """The fields of each record, a JSON object or a tf.train.Example, with its place."""
    with _local(file) as name:
        for number, record in enumerate(_records(name)):
            row = parse_example(record)
            if not row:
                row = jsonl.parse(f"{file.name}:{number}", record)
            else:
                row = {name: _text(value) for name, value in row.items()}
            yield f"record {number + 1}", row


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(one) for one in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _take(file: InputFile, config: InputConfig, first: bytes) -> Take:
    """What makes a record a document."""
    rows, limit = Rows(file, config), config.max_document_bytes
    kind = config.record_format if config.record_format != "auto" else _kind(file, config, first)

    def take_json(number: int, record: bytes) -> Document | Rejected:
        if len(record) > limit:
            return rows.too_long(number, len(record), record)
        row = jsonl.parse(f"{file.name}:{number}", record)
        return row if isinstance(row, Rejected) else rows.take(number, row)

    def take_example(number: int, record: bytes) -> Document | Rejected:
        if len(record) > limit:
            return rows.too_long(number, len(record), record)
        row = parse_example(record)
        if row is None:
            return rows.rejected(number, "bad_example", "no tf.train.Example", record)
        return rows.take(number, row)

    return {"text": rows.document, "json": take_json, "example": take_example}[kind]


def _kind(file: InputFile, config: InputConfig, record: bytes) -> str:
    if parse_example(record):
        return "example"
    row = jsonl.parse("", record)
    if isinstance(row, Rejected):
        return "text"
    if lookup(row, config.text_field) is MISSING:
        raise UserError(
            f"input.text_field={config.text_field!r}: the first record of {file.name} is a JSON "
            f"object without this field; it has {', '.join(row) or 'none'}. Name one of them, or "
            "set input.record_format=text if the records are texts as they are."
        )
    return "json"


def parse_example(record: bytes) -> Mapping[str, Any] | None:
    """The fields of a tf.train.Example, lists of one value as that value; None if it is none."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        features = tf_example_pb2.Example.FromString(record).features.feature
    except DecodeError:
        return None
    row = {}
    for name, feature in sorted(features.items()):  # a map has no order
        kind = feature.WhichOneof("kind")
        values = getattr(feature, kind).value if kind else []
        row[name] = values[0] if len(values) == 1 else list(values)
    return row


def _records(name: str) -> Iterator[bytes]:
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(name, IN_ORDER)
    number, total = 0, reader.num_records()
    try:
        while number < total or not reader.ok():
            yield reader.read()
            number += 1
    except (RuntimeError, IndexError) as error:
        detail = f"behind {number} of {total} records: {error}"
        raise BrokenFile("broken_file", detail) from error
    finally:
        with contextlib.suppress(RuntimeError):  # what it said before, again
            reader.close()


@contextlib.contextmanager
def _local(file: InputFile) -> Iterator[str]:
    """The name of the file on a local disk: the library opens no others."""
    if not in_bucket(file.path):
        open_file(file).close()  # the library takes what it cannot open for a file of no records
        yield os.fspath(file.path)
        return
    with tempfile.NamedTemporaryFile(suffix=".array_record") as copy:
        with open_file(file) as source:
            shutil.copyfileobj(source, copy, BLOCK)
        copy.flush()
        yield copy.name
