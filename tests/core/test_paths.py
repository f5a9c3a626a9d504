"""Files are written whole or not at all; what stops a write is explained.

The tests run as root too, where permissions stop nothing: a file stands in the way instead, and a
full disk is an OSError raised by the write.
"""

import errno

import pytest
from etils import epath

from jaxllm.core.errors import UserError
from jaxllm.core.paths import (
    atomic_write_bytes,
    atomic_write_text,
    make_directory,
    path,
    shortest_names,
)


def failing_write(monkeypatch, number):
    def write(self, content):
        self.touch()
        raise OSError(number, "simulated")

    monkeypatch.setattr(type(epath.Path("/")), "write_bytes", write)


def test_writes_and_leaves_no_temporary_file(tmp_path):
    atomic_write_text(tmp_path / "a.txt", "one")
    atomic_write_bytes(tmp_path / "a.txt", "zwei ä".encode())
    assert (tmp_path / "a.txt").read_text() == "zwei ä"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(("number", "fix"), [
    (errno.ENOSPC, "disk is full"), (errno.EDQUOT, "disk is full"),
    (errno.EFBIG, "ulimit -f"),
    (errno.EACCES, "may write to"), (errno.EROFS, "may write to"),
])
def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch, number, fix):
    target = tmp_path / "a.txt"
    atomic_write_text(target, "old")
    with monkeypatch.context() as patch:
        failing_write(patch, number)
        with pytest.raises(UserError, match=fix) as caught:
            atomic_write_text(target, "new")
    assert str(target) in str(caught.value)
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="file is in the way"):
            make_directory(folder)
    with pytest.raises(UserError, match="file is in the way"):
        atomic_write_text(tmp_path / "file" / "a.txt", "")


def test_make_directory_creates_parents_and_is_repeatable(tmp_path):
    for _ in range(2):
        assert make_directory(tmp_path / "a" / "b").is_dir()


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(path("~/x")) == str(tmp_path / "x")


@pytest.mark.parametrize(("paths", "names"), [
    ([], []), (["/a/b"], ["b"]), (["/a/b", "/a/c"], ["b", "c"]),
    (["/a/b", "c/b", "/a/d"], ["a/b", "c/b", "a/d"]), (["b", "a/b"], ["b", "a/b"]),
])
def test_shortest_names_tell_paths_apart(paths, names):
    assert shortest_names([path(p) for p in paths]) == names
