"""The files that input.paths names, and their formats."""

import gzip
import json

import pytest

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.readers import find_files, formats

from .inputs import items, texts, write


def found(*paths, **fields):
    config = InputConfig(paths=tuple(map(str, paths)), **fields)
    return [(file.path.name, file.format) for file in find_files(config)]


def test_formats_are_found_by_their_files():
    assert list(formats()) == [
        "array_record", "csv", "html", "huggingface", "jsonl", "parquet", "text", "tfds", "xml",
    ]
    for module in formats().values():
        for option in module.OPTIONS:
            assert hasattr(InputConfig(), option)


@pytest.mark.parametrize("name, expected", {
    "a.txt": "text", "a.md.xz": "text", "a.jsonl": "jsonl", "a.JSONL.GZ": "jsonl",
    "c4-train.00001-of-01024.json.gz": "jsonl", "a.json.zst": "jsonl", "a.ndjson.bz2": "jsonl",
    "a.csv": "csv", "a.tsv.gz": "csv", "a.parquet": "parquet", "a.html": "html", "a.htm": "html",
    "a.xml.bz2": "xml", "a.array_record": "array_record", "a.arrow": "huggingface",
    "c4-train.array_record-00000-of-01024": "array_record", "a.json": None, "a.pdf": None,
    "a.tfrecord-00000-of-00001": None, "txt": None,
}.items())
def test_format_by_ending(tmp_path, name, expected):
    file = write(tmp_path / name, "x")
    if expected:
        assert found(file) == [(name, expected)]
    else:
        with pytest.raises(UserError, match=r"cannot be told from its ending.*one of array_record"):
            found(file)
        assert found(file, format="text") == [(name, "text")]


def test_folders_globs_and_samples(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.txt", "deep/c.md", "deep/d.jsonl", "notes.pdf", ".hidden.txt"):
        write(tmp_path / name, json.dumps({"text": name}) if name.endswith("l") else name)
    assert texts([tmp_path]) == ["a.txt", "b.txt", "deep/c.md", "deep/d.jsonl"]
    told = []
    find_files(InputConfig(paths=(str(tmp_path),)), told.append)
    assert "no format: .pdf 1, such as" in told[0] and "notes.pdf" in told[0]
    find_files(InputConfig(paths=(str(tmp_path / "*.txt"),)), told.append)
    assert len(told) == 1  # a glob says itself what is read
    assert texts([tmp_path / "*.txt"]) == ["a.txt", "b.txt"]
    assert texts([tmp_path / "b.txt", tmp_path / "*.txt"]) == ["b.txt", "a.txt"]  # each file once
    assert texts([tmp_path / "**/*.md"]) == ["deep/c.md"]
    monkeypatch.chdir(tmp_path)
    assert texts(["*.txt"]) == ["a.txt", "b.txt"]
    assert [(item.id, item.source) for item in items(["d*p/c.md", "b.txt"])] == [
        ("deep/c.md:0", "d*p/c.md"), ("b.txt:0", "b.txt"),
    ]
    assert len(texts(["sample:fomc"])) == 113
    assert items(["sample:tinyshakespeare"])[0].source == "sample:tinyshakespeare"


def test_missing_files_name_what_is_near(tmp_path):
    write(tmp_path / "corpus.txt", "x")
    for name, expected in {
        "corpis.txt": "corpis.txt does not exist.*Did you mean 'corpus.txt'",
        "zzz.txt": "zzz.txt does not exist. In .* there are: corpus.txt",
        "*.jsonl": "nothing matches.*corpus.txt", "no/such/file.txt": "Nor does its folder",
    }.items():
        with pytest.raises(UserError, match=expected):
            found(tmp_path / name)
    with pytest.raises(UserError, match=r"Did you mean 'tinyshakespeare'"):
        found("sample:tinyshakespear")
    with pytest.raises(UserError, match=r"every file .*empty \(1, such as .*a.txt\)"):
        found(write(tmp_path / "a.txt", ""))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no file that ends in .*\.parquet"):
        found(tmp_path / "empty")
    with pytest.raises(UserError, match=r"format='jsonlines' is unknown. Did you mean 'jsonl'"):
        found(tmp_path / "corpus.txt", format="jsonlines")


@pytest.mark.parametrize("kind", [kind for kind in formats() if kind != "tfds"])
def test_an_empty_file_among_others_is_rejected_alone(tmp_path, kind):
    ending = formats()[kind].ENDINGS[0]
    empty, full = write(tmp_path / f"a{ending}", ""), write(tmp_path / "b.txt", "full")
    first, second = items([empty, full])
    assert (first.id, first.reason) == (str(empty), "empty_file")
    assert second.text == "full"


def test_links(tmp_path):
    write(tmp_path / "a.txt", "x")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/back").symlink_to(tmp_path)
    assert found(tmp_path) == [("a.txt", "text")]
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"gone.txt cannot be read: No such file"):
        found(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    for name, to in (("gone.txt", "nothing"), ("loop", "loop")):
        with pytest.raises(UserError, match=rf"{name} is a link to \S*{to}, which is gone or"):
            found(tmp_path / name)


def test_options_of_other_formats_have_no_effect(tmp_path):
    text, rows = write(tmp_path / "a.txt", "x"), write(tmp_path / "a.jsonl", '{"text": "x"}')
    with pytest.raises(UserError, match=r"id_field='id' has no effect: .* format text.*jsonl"):
        found(text, id_field="id")
    with pytest.raises(UserError, match=r"xml_element='p' has no effect.*it is read for xml"):
        found(text, rows, xml_element="p")
    assert len(found(text, rows, id_field="id")) == 2


def test_what_is_packed_is_told_by_the_content(tmp_path):
    packed = gzip.compress(b'{"text": "x"}')
    assert texts([write(tmp_path / "a.jsonl", packed)]) == ["x"]
    assert texts([write(tmp_path / "b.jsonl.gz", '{"text": "x"}')]) == ["x"]
    assert texts([write(tmp_path / "c.txt", "BZh is no archive")]) == ["BZh is no archive"]
