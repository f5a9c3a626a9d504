"""Tables: CSV against the csv module, Parquet and Arrow against pyarrow, and what is bad."""

import csv
import io
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Document
from jaxllm.data.prepare.readers import find_files, read

from .inputs import items, outline, texts, write

SAVED = Path(__file__).parent / "saved_dataset"  # by datasets 5.2: DatasetDict.save_to_disk
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.lists(st.tuples(CELL, CELL), max_size=8), st.sampled_from([(",", "csv"), ("\t", "tsv")]))
def test_csv_as_the_csv_module_writes_it(tmp_path_factory, rows, kind):
    content = io.StringIO()
    writer = csv.writer(content, delimiter=kind[0], quoting=csv.QUOTE_ALL)
    writer.writerows([("label", "text"), *rows])
    file = write(tmp_path_factory.getbasetemp() / f"a.{kind[1]}", content.getvalue())
    assert outline([file]) == [(str(n), text) for n, (_, text) in enumerate(rows)]


def test_csv_fields_and_options(tmp_path):
    file = write(tmp_path / "a.csv", '\ufeffid,text,from\r\n1,"a, ""b""\r\nc",x\r\n\r\n2,d,\r\n')
    assert items([file], source_field="from", id_field="id") == [
        Document(f"{file}:0", 'a, "b"\r\nc', "x"), Document(f"{file}:1", "d", str(file)),
    ]
    bare = write(tmp_path / "b.tsv", 'ham\t"Hi" he said\nspam\t"call now\n')
    options = {"csv_columns": ("label", "text")}
    assert texts([bare], csv_quotes=False, **options) == ['"Hi" he said', '"call now']
    assert outline([bare], **options) == [("0", "<bad_csv>"), ("1", "<bad_csv>")]
    assert "set input.csv_quotes=False" in items([bare], **options)[0].excerpt
    assert texts([write(tmp_path / "c.csv", "text;n\na,b;1")], csv_delimiter=";") == ["a,b"]


@pytest.mark.parametrize("delimiter", ["||", '"', "\n"])
def test_delimiters_that_are_none(tmp_path, delimiter):
    with pytest.raises(UserError, match=r"csv_delimiter=.* must be one character"):
        items([write(tmp_path / "a.csv", "text\nx")], csv_delimiter=delimiter)


def test_bad_csv_rows(tmp_path):
    content = b"id,text\n1,fine\n2,too,many\n3\n4,caf\xe9\n\xe9,fine\n5,a\0b\n6," + b"x" * 300
    content += b'\n7,fine\n1,again\n8,"open\n'
    file = write(tmp_path / "a.csv", content)
    assert [text for _, text in outline([file], max_document_bytes=200, id_field="id")] == [
        "fine", "<bad_csv>", "<bad_csv>", "<invalid_utf8>", "fine", "<null_bytes>", "<too_long>",
        "fine", "<duplicate_id>", "<bad_csv>",
    ]
    assert items([file])[1].excerpt == "3 fields for 2 columns: 2 | too | many"


def test_large_csv_fields(tmp_path):
    text = "x" * 300_000  # the module stops at 131,072 unless told
    assert texts([write(tmp_path / "a.csv", f'text\n"{text}"\n')]) == [text]
    lines = "\n".join(["y" * 50] * 10)
    file = write(tmp_path / "b.csv", f'text\n"{lines}"\nz\n')
    assert texts([file]) == [lines, "z"]


def test_missing_columns_are_named(tmp_path):
    table = pa.table({"content": ["a"], "n": [1]})
    pq.write_table(table, tmp_path / "a.parquet")
    write(tmp_path / "a.csv", "content,n\na,1\n")
    for name in ("a.parquet", "a.csv"):
        with pytest.raises(UserError, match=r"text_field='text': .* no such column. .* content, n"):
            items([tmp_path / name])
        with pytest.raises(UserError, match=r"input.id_field='no': .*content, n"):
            items([tmp_path / name], text_field="content", id_field="no")
    with pytest.raises(UserError, match=r"column is int64, no text. Columns with text: content"):
        items([tmp_path / "a.parquet"], text_field="n")
    with pytest.raises(UserError, match=r"Did you mean 'content'"):
        items([tmp_path / "a.csv"], text_field="contents")


@pytest.mark.parametrize("kind", [
    pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string()),
    pa.string_view(),
])
def test_parquet_rows(tmp_path, kind):
    rows = [f"text {number} 漢" for number in range(2500)]
    values = pa.array(rows).cast(kind) if kind != pa.string_view() else pa.array(rows, kind)
    table = pa.table({"text": values, "n": range(2500),
                      "meta": [{"set": f"s{number % 3}"} for number in range(2500)]})
    file = tmp_path / "a.parquet"
    pq.write_table(table, file, row_group_size=700)
    found = items([file], source_field="meta.set", id_field="n")
    assert [(item.text, item.source) for item in found] == [
        (text, f"s{number % 3}") for number, text in enumerate(rows)
    ]
    assert [item.id for item in found] == [f"{file}:{number}" for number in range(2500)]
    assert set(texts([file], text_field="meta.set")) == {"s0", "s1", "s2"}


def test_bad_parquet_rows(tmp_path):
    values = pa.array([b"fine", None, b"caf\xe9", b"a\0b", b"x" * 101, b"fine"])
    table = pa.table({"text": values, "id": ["a", "b", "c", "d", "e", "a"]})
    file = tmp_path / "a.parquet"
    pq.write_table(table, file)
    assert outline([file], max_document_bytes=100, id_field="id") == [
        ("0", "fine"), ("1", "<not_text>"), ("2", "<invalid_utf8>"), ("3", "<null_bytes>"),
        ("4", "<too_long>"), ("5", "<duplicate_id>"),
    ]


def test_broken_tables_are_rejected(tmp_path):
    table = pa.table({"text": [f"{number} " * 100 for number in range(20_000)]})
    file, arrow = tmp_path / "a.parquet", tmp_path / "a.arrow"
    pq.write_table(table, file, row_group_size=1000)
    with pa.ipc.new_stream(arrow, table.schema) as stream:
        stream.write_table(table, 1000)
    content = file.read_bytes()
    damaged = bytearray(content)
    damaged[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    for path, bad, good in (
        (file, content[:-100], 0), (file, b"no table", 0), (file, damaged, 5000),
        (arrow, arrow.read_bytes()[:-20_000], 15_000), (arrow, b"no table at all", 0),
    ):
        write(path, bytes(bad))
        *found, last = items([path])
        assert (last.id, last.reason) == (str(path), "broken_file")
        assert len(found) >= good
        assert [item.text for item in found] == table["text"].to_pylist()[: len(found)]


def test_parquet_memory_does_not_grow_with_the_row_group(tmp_path):
    peaks = []
    for rows in (2000, 8000):
        file = tmp_path / f"{rows}.parquet"
        texts_ = [f"{number:08d}" * 1000 for number in range(rows)]
        pq.write_table(pa.table({"text": texts_}), file, row_group_size=rows, use_dictionary=False)
        config = InputConfig(paths=(str(file),))
        del texts_
        tracemalloc.start()
        pool = pa.default_memory_pool()
        start, peak = pool.bytes_allocated(), 0
        for item in read(*find_files(config), config):
            assert isinstance(item, Document)
            peak = max(peak, pool.bytes_allocated() - start)
        peaks.append(peak + tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[1] < 50e6


def test_saved_datasets(tmp_path):
    assert outline([SAVED / "train"]) == [
        ("0", "Satz 6 – 漢字"), ("1", "Satz 0 – 漢字"), ("2", "Satz 1 – 漢字"),
        ("0", "Satz 2 – 漢字"), ("1", "Satz 3 – 漢字"),
    ]
    assert texts([SAVED / "test"]) == ["Satz 5 – 漢字", "Satz 6 – 漢字"]
    found = items([SAVED / "test"], source_field="meta.url", id_field="id")
    assert [item.source for item in found] == ["u5", "u6"]
    assert found[0].id == f"{SAVED}/test/data-00000-of-00001.arrow:0"
    with pytest.raises(UserError, match=r"the splits train, test. Name those to read, such as"):
        items([SAVED])
    with pytest.raises(UserError, match=r"the splits train, test"):
        items([SAVED.parent])


def test_saved_datasets_that_cannot_be_followed(tmp_path):
    write(tmp_path / "state.json", '{"_data_files": [{"filename": "a.arrow"}]}')
    with pytest.raises(UserError, match=r"a.arrow is missing: state.json"):
        items([tmp_path])
    write(tmp_path / "state.json", '{"_data_files": [], "_indices_data_files": [{"filename": ""}]}')
    with pytest.raises(UserError, match=r"flatten_indices"):
        items([tmp_path])
    write(tmp_path / "state.json", "{")
    with pytest.raises(UserError, match=r"state.json is no JSON"):
        items([tmp_path])
    write(tmp_path / "state.json", '{"step": 3}')
    write(tmp_path / "a.txt", "x")
    assert texts([tmp_path]) == ["x"]


def test_arrow_file_format(tmp_path):
    table = pa.table({"text": ["a", "b"]})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    assert texts([tmp_path / "a.arrow"]) == ["a", "b"]
