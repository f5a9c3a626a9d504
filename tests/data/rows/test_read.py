"""Rows of every kind of file are the same rows, each with its place."""

import json
from pathlib import Path

import pytest

from jaxllm.core.errors import UserError
from jaxllm.data.config import SourceConfig
from jaxllm.data.rows.read import is_prepared, read_rows
from jaxllm.data.rows.row import BadRow

ROWS = [{"text": "one, \"two\"\nthree é", "label": "a"}, {"text": "four", "label": "b"}]


def read(name, **fields):
    return list(read_rows(str(name), SourceConfig(str(name), **fields), "data.mixture.x.path"))


def csv_text(delimiter):
    quoted = ['"' + row["text"].replace('"', '""') + '"' for row in ROWS]
    return f"text{delimiter}label\n" + "".join(
        f"{text}{delimiter}{row['label']}\n" for text, row in zip(quoted, ROWS, strict=True))


def write(folder, kind):
    """The rows as a file of a kind; the places that they have in it."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    if kind == "parquet" or kind == "arrow":
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist(ROWS)
        if kind == "parquet":
            pq.write_table(table, folder / "r.parquet")
        else:
            with pa.OSFile(str(folder / "r.arrow"), "wb") as file, pa.ipc.new_stream(
                file, table.schema
            ) as stream:
                stream.write_table(table)
        return "r." + kind, ["row 1", "row 2"]
    if kind == "array_record":
        from array_record.python import array_record_module

        file = str(folder / "r.array_record")
        writer = array_record_module.ArrayRecordWriter(file, "group_size:1")
        for row in ROWS:
            writer.write(json.dumps(row).encode())
        writer.close()
        return "r.array_record", ["record 1", "record 2"]
    text, places = {
        "jsonl": (lines, ["line 1", "line 2"]), "ndjson": (lines, ["line 1", "line 2"]),
        "json": (json.dumps(ROWS, indent=1), ["row 1", "row 2"]),
        "csv": (csv_text(","), ["line 3", "line 4"]), "tsv": (csv_text("\t"), ["line 3", "line 4"]),
    }[kind]
    (folder / f"r.{kind}").write_text(text)
    return f"r.{kind}", places


@pytest.mark.parametrize(
    "kind", ["jsonl", "ndjson", "json", "csv", "tsv", "parquet", "arrow", "array_record"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, kind):
    name, places = write(tmp_path, kind)
    found = read(tmp_path / name)
    assert [dict(row.columns) for row in found] == ROWS
    assert [row.place for row in found] == [f"{tmp_path / name}, {place}" for place in places]


def test_structs_of_columnar_files_have_the_fields_that_a_row_has(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "calls": [
            {"name": "f", "arguments": {"a": 1}}]}], "tools": None},
        {"messages": [{"role": "assistant", "calls": [{"name": "g", "arguments": {"b": [2]}}]}],
         "tools": "[]"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    assert [dict(row.columns) for row in read(tmp_path / "r.parquet")] == rows


def test_a_folder_and_a_glob_are_read_in_order(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"text": "2"}\n')
    (tmp_path / "a.json").write_text('{"text": "1"}\n')  # lines, whatever the ending
    (tmp_path / "notes.txt").write_text("3")
    (tmp_path / "README").write_text("no rows")
    assert [row.columns["text"] for row in read(tmp_path)] == ["1", "2", "3"]
    assert [row.columns["text"] for row in read(f"{tmp_path}/*.jsonl")] == ["2"]
    assert not is_prepared(str(tmp_path))


def test_conll(tmp_path):
    (tmp_path / "x.conll").write_text(
        "-DOCSTART- -X- O O\n\n# text = Ann ran\nAnn NNP B-per\nran VBD O\n\n\nto\tO\n")
    found = read(tmp_path / "x.conll")
    assert [(row.place.split(", ")[1], row.columns) for row in found] == [
        ("line 4", {"tokens": ["Ann", "ran"], "tags": ["B-per", "O"]}),
        ("line 8", {"tokens": ["to"], "tags": ["O"]}),
    ]
    (tmp_path / "y.conll").write_text("Ann B-per\nran\n")
    assert "line 2: no_tag" in str(read(tmp_path / "y.conll")[0])


def test_a_table_without_a_header_whose_quotes_mean_nothing(tmp_path):
    (tmp_path / "sms.tsv").write_text('ham\tsay "hi\nspam\t"win\n')
    found = read(tmp_path / "sms.tsv", csv_columns=("label", "text"), csv_quotes=False)
    assert [dict(row.columns) for row in found] == [
        {"label": "ham", "text": 'say "hi'}, {"label": "spam", "text": '"win'}]


def test_a_saved_data_set_of_hugging_face():
    folder = Path(__file__).parents[1] / "prepare/saved_dataset"
    found = read(folder / "train")
    assert len(found) > 1 and all("text" in row.columns for row in found)
    with pytest.raises(UserError, match=r"data.mixture.x.path: .* is a Hugging Face DatasetDict"):
        read(folder)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.jsonl", '{"text": "x"}\n{"text": \n', "a.jsonl, line 2: bad_json"),
    ("a.jsonl", '["x"]\n', "line 1: not_an_object"),
    ("a.csv", "text,label\nx\n", "line 2: bad_csv: 1 fields for 2 columns"),
    ("a.json", '[{"text": "x"}, 3]', "row 2: not_an_object"),
])
def test_a_bad_row_has_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    bad = [row for row in read(tmp_path / name) if isinstance(row, BadRow)]
    assert len(bad) == 1 and message in str(bad[0])


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.json", '[{"text": "x"},]', r"x.path: .*a.json cannot be read \(bad_json: line 1"),
    ("a.rows", "x", r"format of .*a.rows cannot be told from its ending"),
    ("a.parquet", "x" * 20, r"a.parquet cannot be read \(broken_file"),
])
def test_a_file_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


def test_a_path_that_is_not_there(tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(UserError, match=r"data.mixture.x.path: .*Did you mean 'rows.jsonl'"):
        read(tmp_path / "row.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data.mixture.x.path: the folder .* holds no file"):
        read(tmp_path / "empty")
