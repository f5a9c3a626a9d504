"""Files of lines on a disk and in an object store, for which fsspec's own in memory stands."""

import errno

import fsspec
import pytest

from jaxllm.core import lines as lines_module
from jaxllm.core.errors import UserError
from jaxllm.core.lines import Lines, append
from jaxllm.core.paths import path

OBJECT = "memory://bucket/run/metrics.jsonl"


@pytest.fixture
def store():
    """Gives what the object holds; it begins without one."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield lambda: system.cat("/bucket/run/metrics.jsonl").decode() if system.store else None
    system.store.clear()


def test_a_disk_has_a_line_at_once(tmp_path):
    file = path(tmp_path / "lines")
    written = Lines(file)
    written.add("one\n")
    assert file.read_text() == "one\n"
    append(file, b"from another\n")
    written.add("two\n")
    written.flush()
    written.close()
    assert file.read_text() == "one\nfrom another\ntwo\n"


def test_a_torn_line_stays_alone(tmp_path):
    file = path(tmp_path / "lines")
    file.write_text("to")
    append(file, b"whole\n")
    append(file, b"")
    assert file.read_text() == "to\nwhole\n"


def test_an_object_has_everything_after_a_flush_and_keeps_what_was_there(store):
    append(OBJECT, b"before\n")
    written = Lines(OBJECT)
    written.add("one\n")
    assert store() == "before\n"  # an object is written whole: not for every line
    append(OBJECT, b"from another\n")
    written.flush()
    assert store() == "before\nfrom another\none\n"
    written.add("two\n")
    written.close()
    assert store() == "before\nfrom another\none\ntwo\n"


def test_an_object_is_written_behind_the_run_when_it_is_due(store, monkeypatch):
    monkeypatch.setattr(lines_module, "SECONDS", -1.0)
    written = Lines(OBJECT)
    written.add("one\n")
    written._sending.result()
    assert store() == "one\n"
    written.close()


def test_a_store_that_is_away_costs_no_line(store, monkeypatch):
    system = type(fsspec.filesystem("memory"))
    written = Lines(OBJECT)
    written.add("one\n")
    with monkeypatch.context() as patch:
        def away(*arguments):
            raise RuntimeError("503")

        patch.setattr(system, "pipe_file", away)
        with pytest.raises(UserError, match=r"Cannot write memory://.*RuntimeError: 503"):
            written.flush()
    written.add("two\n")
    written.close()
    assert store() == "one\ntwo\n"


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(self, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", full)
    with pytest.raises(UserError, match="disk is full"):
        append(path(tmp_path / "lines"), b"one\n")
