"""Readers: documents come out as they are in the files, and bad files are named with the place."""

import json

import pytest

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.readers import find_files, read_documents

from .corpora import make_config


def read(paths, **fields):
    config = make_config(paths, **{f"input__{name}": value for name, value in fields.items()}).input
    return [text for file in find_files(config) for text in read_documents(file, config)]


def write(file, content):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_units_of_a_text_file(tmp_path):
    text = "\n\nOne\n  two\n\n \nthree\r\nfour\n"
    file = write(tmp_path / "a.txt", text)
    assert read([file]) == [text]
    assert read([file], document="paragraph") == ["One\n  two", "three\r\nfour"]
    assert read([file], document="line") == ["", "", "One", "  two", "", " ", "three", "four"]


def test_paragraphs_of_shakespeare_are_those_of_a_plain_split():
    from jaxllm.samples import sample

    text = (sample("tinyshakespeare") / "input.txt").read_text()
    expected = [part.strip("\n") for part in text.split("\n\n") if part.strip()]
    assert read(["sample:tinyshakespeare"], document="paragraph") == expected


def test_jsonl_rows(tmp_path):
    rows = [{"text": "a\nb", "id": 1}, {"text": ""}, {"text": "漢😀"}]
    content = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    assert read([write(tmp_path / "a.jsonl", content)]) == ["a\nb", "", "漢😀"]
    other = write(tmp_path / "b.data", json.dumps({"body": "x"}))
    assert read([other], format="jsonl", text_field="body") == ["x"]


def test_byte_order_mark_is_no_text(tmp_path):
    assert read([write(tmp_path / "a.txt", b"\xef\xbb\xbfhello")]) == ["hello"]


def test_folders_globs_and_samples(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.txt", "deep/c.md", "deep/d.jsonl", "notes.pdf"):
        write(tmp_path / name, json.dumps({"text": name}) if name.endswith("l") else name)
    assert read([tmp_path]) == ["a.txt", "b.txt", "deep/c.md", "deep/d.jsonl"]
    assert read([tmp_path / "*.txt"]) == ["a.txt", "b.txt"]
    assert read([tmp_path / "b.txt", tmp_path / "*.txt"]) == ["b.txt", "a.txt"]  # each file once
    assert read([tmp_path / "**/*.md"]) == ["deep/c.md"]
    monkeypatch.chdir(tmp_path)
    assert read(["*.txt"]) == ["a.txt", "b.txt"]
    assert read(["d*p/c.md"]) == ["deep/c.md"]
    assert len(read(["sample:fomc"])) == 113


@pytest.mark.parametrize("content, expected", [
    (b"", "a.txt is empty"),
    (b"ok\nb\x00c", r"a.txt is a binary file: byte 4 is 0"),
    (b"ok\nfine\nb\xe9d", r"a.txt is no UTF-8 text: byte 9 is 0xe9 \(line 3\)"),
    (b"\xef\xbb\xbfok\nb\xe9d", r"byte 7 is 0xe9 \(line 2\)"),
    (b"ok \xe6\xbc", r"byte 3 is 0xe6"),
])
def test_bad_text_files(tmp_path, content, expected):
    for document in ("file", "paragraph", "line"):
        with pytest.raises(UserError, match=expected):
            read([write(tmp_path / "a.txt", content)], document=document)


@pytest.mark.parametrize("content, expected", [
    ('{"text": "a"}\n{"text": \n', r"a.jsonl:2 is no JSON: .* at column"),
    ('{"text": "a"}\n["b"]\n', r"a.jsonl:2 is a JSON list"),
    ('{"body": "a", "title": "t", "n": 1}', r"a.jsonl:1: the field .*text_field='text' is missing."
     r" Fields with text there: body, title"),
    ('{"text": 3}', r"text_field='text' is no text. Fields with text there: none"),
    (r'{"text": "bad \ud83d"}', r"a.jsonl:1.*half a surrogate"),
])
def test_bad_rows(tmp_path, content, expected):
    with pytest.raises(UserError, match=expected):
        read([write(tmp_path / "a.jsonl", content)])


def test_missing_files_name_what_is_near(tmp_path):
    write(tmp_path / "corpus.txt", "x")
    for name, expected in {
        "corpis.txt": "corpis.txt does not exist.*Did you mean 'corpus.txt'",
        "*.jsonl": "nothing matches.*corpus.txt", "no/such/file.txt": "Nor does its folder",
    }.items():
        with pytest.raises(UserError, match=expected):
            read([tmp_path / name])
    with pytest.raises(UserError, match=r"Did you mean 'tinyshakespeare'"):
        read(["sample:tinyshakespear"])
    write(tmp_path / "a.csv", "x")
    with pytest.raises(UserError, match=r"cannot be told from its ending"):
        read([tmp_path / "a.csv"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no file that ends in"):
        read([tmp_path / "empty"])
