"""Readers: documents come out as they are in the files, and bad records with their reason."""

import dataclasses
import itertools
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Document, Part, Rejected
from jaxllm.data.prepare.readers import find_files, has_line_rows, read
from jaxllm.samples import sample

from .inputs import items, outline, texts, write


def test_units_of_a_text_file(tmp_path):
    text = "\n\nOne\n  two\n\n \u3000\nthree\r\nfour\n"
    file = write(tmp_path / "a.txt", text)
    assert texts([file]) == [text]
    assert outline([file], document="paragraph") == [("2", "One\n  two"), ("6", "three\r\nfour")]
    lines = ["", "", "One", "  two", "", " \u3000", "three", "four"]
    assert texts([file], document="line") == lines


def test_paragraphs_of_shakespeare_are_those_of_a_plain_split():
    text = (sample("tinyshakespeare") / "input.txt").read_text()
    expected = [part.strip("\n") for part in text.split("\n\n") if part.strip()]
    assert texts(["sample:tinyshakespeare"], document="paragraph") == expected


def test_jsonl_rows(tmp_path):
    rows = [{"text": "a\nb", "id": 1}, {"text": ""}, {"text": "漢😀"}]
    content = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    file = write(tmp_path / "a.jsonl", content)
    assert items([file]) == [
        Document(f"{file}:{number}", row["text"], str(file)) for number, row in enumerate(rows)
    ]
    other = write(tmp_path / "b.data", json.dumps({"body": "x"}))
    assert texts([other], format="jsonl", text_field="body") == ["x"]


def test_byte_order_mark_is_no_text(tmp_path):
    assert texts([write(tmp_path / "a.txt", b"\xef\xbb\xbfhello")]) == ["hello"]
    assert texts([write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "x"}')]) == ["x"]


def test_source_and_fields_within_fields(tmp_path):
    rows = [{"meta": {"set": "Pile", "body": "a"}}, {"meta": {"body": "b"}},
            {"meta.body": "c", "meta": {"set": 7}}]
    file = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    found = items([tmp_path / "*.jsonl"], text_field="meta.body", source_field="meta.set")
    assert [(item.text, item.source) for item in found] == [
        ("a", "Pile"), ("b", str(tmp_path / "*.jsonl")), ("c", "7"),
    ]
    assert {item.id for item in found} == {f"{file}:{number}" for number in range(3)}


def test_duplicate_ids(tmp_path):
    rows = [("x", "a"), ("y", "b"), ("x", "c"), (1, "d"), (None, "e"), (None, "f"), ("1", "g")]
    content = "\n".join(json.dumps({"key": key, "text": text}) for key, text in rows)
    one, two = write(tmp_path / "1.jsonl", content), write(tmp_path / "2.jsonl", content)
    expected = ["a", "b", "<duplicate_id>", "d", "e", "f", "<duplicate_id>"]
    assert [text for _, text in outline([one, two], id_field="key")] == 2 * expected
    assert [text for _, text in outline([one])] == list("abcdefg")
    bad = [item for item in items([one], id_field="key") if isinstance(item, Rejected)]
    assert bad[0].excerpt == "key='x' was there before: c"


GOOD = '{"text": "fine"}'
BAD_ROWS = [
    ('{"text": \n', "bad_json", "Expecting value at column 11: {\"text\":"),
    ('{"text": "a"} x', "bad_json", "Extra data at column 15"),
    ("[" * 200_000, "bad_json", "recursion"),
    ('{"text": "a", "n": ' + "1" * 5000 + "}", "bad_json", "Exceeds the limit"),
    ('["b"]', "not_an_object", 'a JSON list, no object: ["b"]'),
    ("null", "not_an_object", "a JSON NoneType"),
    ('{"body": "a", "title": "t", "n": 1}', "no_text_field",
     "'text' is missing; fields with text: body, title"),
    ('{"text": 3, "b": "x"}', "not_text", "'text' is int; fields with text: b"),
    ('{"text": null}', "not_text", "'text' is null; fields with text: none"),
    (r'{"text": "bad \ud83d!"}', "lone_surrogate", r"bad \ud83d!"),
    (b'{"text": "caf\xe9"}', "invalid_utf8", r'byte 13 is 0xe9: {"text": "caf\xe9"}'),
    (b'{"text": "a\0b"}', "null_bytes", "byte 11 is 0"),
    (b"\0" * 4096, "null_bytes", r"byte 0 is 0: binary data, or UTF-16: \x00\x00"),
    (b'{"text": "' + b"x" * 2000 + b'"}', "too_long",
     '2,013 bytes are more than input.max_document_bytes=1000: {"text": "xxx'),
]


@pytest.mark.parametrize("line, reason, detail", BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_bad_rows_are_rejected_and_reading_goes_on(tmp_path, line, reason, detail):
    line = line if isinstance(line, bytes) else line.encode()
    content = b"\n".join([GOOD.encode(), line.strip(b"\n"), b"", GOOD.encode(), b""])
    limit = 1000 if reason == "too_long" else 10**6
    file = write(tmp_path / "a.jsonl", content)
    first, bad, last = items([file], max_document_bytes=limit)
    assert (first.id, last.id, last.text) == (f"{file}:0", f"{file}:3", "fine")
    assert (bad.id, bad.reason) == (f"{file}:1", reason)
    assert detail in bad.excerpt


@pytest.mark.parametrize("content, expected", {
    b"ok\nb\x00c\n\nd": {"file": ["<null_bytes>"], "paragraph": ["<null_bytes>", "d"],
                         "line": ["ok", "<null_bytes>", "", "d"]},
    b"ok\n\nb\xe9d\nx\n\nfine": {"file": ["<invalid_utf8>"],
                                 "paragraph": ["ok", "<invalid_utf8>", "fine"],
                                 "line": ["ok", "", "<invalid_utf8>", "x", "", "fine"]},
    b"ok \xe6\xbc": {"file": ["<invalid_utf8>"]},
    "über".encode("utf-16"): {key: ["<utf16>"] for key in ("file", "paragraph", "line")},
}.items())
def test_bad_text_files(tmp_path, content, expected):
    file = write(tmp_path / "a.txt", content)
    for document, found in expected.items():
        assert [text for _, text in outline([file], document=document)] == found


def test_long_texts_are_rejected(tmp_path):
    line = "x" * 60 + "\n"
    file = write(tmp_path / "a.txt", f"{line}{line}\nshort\n\n{'y' * 130}\nend\n\n{line}")
    assert outline([file], max_document_bytes=100) == [("0", "<too_long>")]
    assert outline([file], max_document_bytes=100, document="paragraph") == [
        ("0", "<too_long>"), ("3", "short"), ("5", "<too_long>"), ("8", "x" * 60),
    ]
    found = outline([file], max_document_bytes=60, document="line")
    assert [text for _, text in found] == [
        "x" * 60, "x" * 60, "", "short", "", "<too_long>", "end", "", "x" * 60,
    ]
    hint = "Make documents smaller (input.document=paragraph or line)"
    assert hint in items([file], max_document_bytes=100)[0].excerpt


def test_a_document_of_the_largest_size_is_kept(tmp_path):
    file = write(tmp_path / "a.txt", "x" * 100)
    for document in ("file", "paragraph", "line"):
        assert texts([file], document=document, max_document_bytes=100) == ["x" * 100]
        assert outline([file], document=document, max_document_bytes=99) == [("0", "<too_long>")]


def test_memory_of_a_line_is_a_few_times_its_size(tmp_path):
    size = 20_000_000
    file = tmp_path / "a.jsonl"
    text = '{"text": "' + "a b\\n" * (size // 5) + '"}\n'
    for content, count in ((text, 1), ("x" * 3 * size + "\n" + GOOD, 1)):
        write(file, content)
        config = InputConfig(paths=(str(file),), max_document_bytes=size + 100)
        tracemalloc.start()
        documents = sum(isinstance(item, Document) for item in read(*find_files(config), config))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert documents == count
        assert peak < 5 * size


LINES = st.lists(st.sampled_from([
    b"plain", b"", b"  ", b'{"text": "row"}', b'{"text": 1}', "é漢".encode(), b"\xff", b"\0",
    b"\r", b"x" * 50, b'{"text": "' + b"y" * 50 + b'"}',
]), max_size=12)


@given(LINES, st.booleans(), st.booleans(), st.data())
def test_parts_give_what_the_whole_gives(tmp_path_factory, lines, mark, end, data):
    content = b"\xef\xbb\xbf" * mark + b"\n".join(lines) + b"\n" * end
    if not content:
        return
    starts = [at + 1 for at, byte in enumerate(content[:-1]) if byte == 0x0A]
    cuts = sorted(data.draw(st.sets(st.sampled_from(starts)))) if starts else []
    edges = [0, *cuts, len(content)]
    parts = [Part(a, b, content[:a].count(b"\n")) for a, b in itertools.pairwise(edges)]
    path = write(tmp_path_factory.getbasetemp() / "parts.txt", content)
    for format in ("text", "jsonl"):
        config = InputConfig(
            paths=(str(path),), format=format, document="line", max_document_bytes=40
        )
        (file,) = find_files(config)
        whole = list(read(file, config))
        assert [item for part in parts for item in read(file, config, part)] == whole
        rows = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        rows = rows if rows[-1] else rows[:-1]
        assert all(int(item.id.rpartition(":")[2]) < len(rows) for item in whole)
        if format == "text":
            assert len(whole) == len(rows)


def test_only_rows_of_lines_are_read_in_parts(tmp_path):
    file = write(tmp_path / "a.jsonl", GOOD)
    config = InputConfig(paths=(str(file),))
    (found,) = find_files(config)
    assert has_line_rows(found, config)
    assert not has_line_rows(found, dataclasses.replace(config, id_field="id"))
    text = dataclasses.replace(found, format="text")
    assert not has_line_rows(text, config)
    assert has_line_rows(text, dataclasses.replace(config, document="line"))
    with pytest.raises(ValueError, match="read whole"):
        list(read(text, config, Part(0, 5)))


def test_a_file_that_cannot_be_opened(tmp_path):
    config = InputConfig(paths=(str(write(tmp_path / "a.txt", "x")),))
    (file,) = find_files(config)
    file.path.unlink()
    with pytest.raises(UserError, match=r"a.txt cannot be read: No such file"):
        list(read(file, config))
