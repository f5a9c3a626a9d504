"""Units of the input: every byte once, in order, cut at line ends, whatever the size."""

import gzip
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.prepare import readers
from jaxllm.data.prepare.documents import Document
from jaxllm.data.prepare.readers import find_files
from jaxllm.data.prepare.units import cut, number, survey

from ..corpora import make_config

LINES = st.lists(st.text(st.sampled_from("ab é\r\t"), max_size=30), min_size=1, max_size=40)


def units_of(paths, unit_bytes, **fields):
    config = make_config(paths, **{f"input__{name}": value for name, value in fields.items()}).input
    units = cut(find_files(config), config, unit_bytes)
    return config, number(units, [survey(unit)[1] for unit in units])


def documents(config, units):
    return [found for unit in units for file in unit.files
            for found in readers.read(file, config, unit.part)]


@settings(deadline=None, max_examples=80)
@given(lines=LINES, unit_bytes=st.integers(1, 200), last=st.sampled_from(["", "\n"]))
def test_parts_read_one_by_one_are_the_file(lines, unit_bytes, last, tmp_path_factory):
    file = tmp_path_factory.mktemp("units") / "a.txt"
    file.write_bytes(("\n".join([*lines, "end"]) + last).encode())
    config, units = units_of([file], unit_bytes, document="line")
    whole = units_of([file], 10**9, document="line")
    assert len(whole[1]) == 1 and whole[1][0].part is None
    assert documents(config, units) == documents(*whole)
    if len(units) > 1:
        assert [unit.part.start for unit in units][1:] == [unit.part.end for unit in units][:-1]
        assert (units[0].part.start, units[-1].part.end) == (0, file.stat().st_size)
        longest = max(len(line.encode()) for line in [*lines, "end"]) + 1
        assert all(unit.bytes <= unit_bytes + longest for unit in units)


def test_numbers_of_rows_go_on_over_parts_and_begin_anew_in_a_file(tmp_path):
    for name in "ab":
        rows = (json.dumps({"text": f"{name}{index} " * 9}) for index in range(50))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    config, units = units_of([tmp_path], 500)
    assert len(units) > 8
    found = documents(config, units)
    assert [(one.id, one.text[:3].strip()) for one in found] == [
        (f"{tmp_path}/{name}.jsonl:{index}", f"{name}{index}") for name in "ab"
        for index in range(50)]


def test_small_files_are_read_together_and_large_ones_whole(tmp_path):
    for index in range(10):
        (tmp_path / f"{index}.txt").write_text("x" * 100)
    (tmp_path / "5.txt").write_text("y" * 1000)
    _, units = units_of([tmp_path], 300)
    assert [[file.path.name[0] for file in unit.files] for unit in units] == [
        list("012"), list("34"), ["5"], list("678"), ["9"]]
    assert all(unit.part is None for unit in units)  # a document that is the file is not cut


@pytest.mark.parametrize("packed", [gzip.compress, lambda data: data.decode().encode("utf-16")])
def test_what_has_no_lines_on_disk_is_not_cut(tmp_path, packed):
    file = tmp_path / "a.jsonl"
    file.write_bytes(packed(b"".join(b'{"text": "%d"}\n' % index for index in range(5000))))
    assert len(units_of([file], 100)[1]) == 1


def test_survey_is_the_hash_of_the_bytes(tmp_path):
    content = b"".join(b"line %d\n" % index for index in range(1000))
    (tmp_path / "a.txt").write_bytes(content)
    config, units = units_of([tmp_path / "a.txt"], 1000, document="line")
    digests = [survey(unit)[0] for unit in units]
    parts = [content[unit.part.start : unit.part.end] for unit in units]
    assert digests == [hashlib.sha256(part).hexdigest() for part in parts]
    assert b"".join(parts) == content
    assert [unit.part.row for unit in units] == [
        content[: unit.part.start].count(b"\n") for unit in units]
    assert all(isinstance(one, Document) for one in documents(config, units))


def test_a_file_name_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a\udcff.txt").write_text("x")
    with pytest.raises(UserError, match=r"file name '.*a.udcff.txt' is no Unicode text.*Rename"):
        units_of([tmp_path], 100)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * 9)
    _, units = units_of([tmp_path], 20)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(UserError, match=r"a.jsonl cannot be read: No such file"):
        survey(units[0])
