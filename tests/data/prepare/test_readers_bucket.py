"""Files in a bucket: read through file objects of fsspec, as those of gcsfs are."""

import errno
import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from array_record.python import array_record_module
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Part
from jaxllm.data.prepare.readers import InputFile, read

TEXTS = [f"{number} 漢 {random.Random(number).randbytes(100).hex()}" for number in range(3000)]
ROWS = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


class BucketPath:
    """Of an epath.Path what readers use; `broken` is raised behind the first 100,000 bytes."""

    def __init__(self, name: str, content: bytes, broken: Exception | None = None):
        self.name, self._content, self._broken = name, content, broken

    def __str__(self) -> str:
        return f"gs://bucket/{self.name}"

    def open(self, mode: str) -> AbstractBufferedFile:
        content, broken = self._content, self._broken

        class File(AbstractBufferedFile):
            def _fetch_range(self, start: int, end: int) -> bytes:
                if broken and end > 100_000:
                    raise broken
                return content[start:end]

        return File(AbstractFileSystem(), self.name, mode, block_size=2**16, size=len(content))


def bucket_file(name, format, content, broken=None):
    path = BucketPath(name, content, broken)
    return InputFile(path, str(path), format, len(content), "gs://bucket/*")


def contents(tmp_path):
    """The texts in every format that is read from a stream, and as ArrayRecord."""
    table = pa.table({"text": TEXTS})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as stream:
        stream.write_table(table, 100)
    writer = array_record_module.ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1")
    for text in TEXTS:
        writer.write(text.encode())
    writer.close()
    xml = "".join(f"<d>{text}</d>" for text in TEXTS).encode()
    return {
        "a.jsonl": ("jsonl", ROWS), "a.jsonl.gz": ("jsonl", gzip.compress(ROWS)),
        "a.jsonl.zst": ("jsonl", zstandard.compress(ROWS)), "a.xml": ("xml", b"<r>%b</r>" % xml),
        "a.csv": ("csv", "\n".join(["text", *TEXTS]).encode()),
        **{f"a.{ending}": (format, (tmp_path / f"a.{ending}").read_bytes()) for ending, format in (
            ("parquet", "parquet"), ("arrow", "huggingface"), ("array_record", "array_record"))},
    }


def test_every_format_from_a_bucket(tmp_path):
    config = InputConfig(xml_element="d")
    for name, (format, content) in contents(tmp_path).items():
        found = list(read(bucket_file(name, format, content), config))
        assert [item.text.strip() for item in found] == [text.strip() for text in TEXTS]
        assert found[7].id == f"gs://bucket/{name}:7"
        assert found[7].source == "gs://bucket/*"


def test_parts_from_a_bucket():
    file, cut = bucket_file("a.jsonl", "jsonl", ROWS), ROWS.index(b"\n", 300_000) + 1
    parts = [Part(0, cut), Part(cut, len(ROWS), ROWS[:cut].count(b"\n"))]
    config = InputConfig()
    assert [item for part in parts for item in read(file, config, part)] == list(read(file, config))


class HttpError(Exception):
    """As gcsfs raises it."""


@pytest.mark.parametrize("broken", [
    HttpError("503"), OSError(errno.EIO, "Input/output error"), OSError("Forbidden: 503"),
])
def test_a_connection_that_breaks_is_no_bad_record(tmp_path, broken):
    config = InputConfig(xml_element="d")
    for name, (format, content) in contents(tmp_path).items():
        file = bucket_file(name, format, content, broken)
        with pytest.raises(UserError, match=rf"{file.name} cannot be read: .*(503|Input/output)"):
            list(read(file, config))
