"""TensorBoard's files, read back by the format's own description, and disks that fill up."""

import io
import struct
import sys
from functools import partial
from pathlib import Path

import pytest

from jaxllm.core import board as board_module
from jaxllm.core.board import Board


def events(folder):
    """The events of a folder's only file: each is length, CRC, message, CRC (TFRecord)."""
    from tensorboardX.proto.event_pb2 import Event

    [file] = folder.iterdir()
    content, at, found = file.read_bytes(), 0, []
    while at < len(content):
        [size] = struct.unpack_from("<Q", content, at)
        found.append(Event.FromString(content[at + 12 : at + 12 + size]))
        at += size + 16
    assert at == len(content)
    return found


def test_numbers_and_texts_come_back(tmp_path):
    board = Board(tmp_path / "board", 4, pytest.fail)
    board.write(5, {"train/loss": 2.5, "train/finite": True}, {})
    board.write(6, {}, {"ROMEO:": "ä word"})
    board.write(7, {}, {})
    board.close()
    version, start, numbers, text = events(tmp_path / "board")
    assert version.file_version == "brain.Event:2"
    # TensorBoard hides what other files have from this step on
    assert (start.step, start.session_log.status) == (5, start.session_log.START)
    values = {value.tag: value.simple_value for value in numbers.summary.value}
    assert (numbers.step, values) == (5, {"train/loss": 2.5, "train/finite": 1.0})
    [value] = text.summary.value
    assert (text.step, value.tensor.string_val) == (6, ["ä word".encode()])
    assert value.metadata.plugin_data.plugin_name == "text"


def test_a_disk_that_fills_up_is_told_once_and_nothing_waits(tmp_path, monkeypatch):
    """Every write goes to a device that is full."""
    from tensorboardX import record_writer

    full, told = partial(Path("/dev/full").open, "wb"), []
    monkeypatch.setattr(record_writer, "open_file", lambda name: full())
    board = Board(tmp_path, 0, told.append)
    for step in range(2000):  # more than fit the file's buffer, and tensorboardX's queue of ten
        board.write(step, {"loss": 1.0}, {})
    board.close()
    [warning] = told
    assert "No space left on device" in warning and "metrics.jsonl has everything" in warning


def test_a_bucket_whose_client_is_not_there_is_told(tmp_path, monkeypatch):
    from tensorboardX import record_writer

    def missing(name):
        raise ImportError("no google-cloud-storage")

    told = []
    monkeypatch.setattr(record_writer, "open_file", missing)
    board = Board(tmp_path, 0, told.append)
    board.write(1, {"loss": 1.0}, {})
    board.close()
    assert len(told) == 1 and "no google-cloud-storage" in told[0]


def test_a_bucket_that_was_away_has_everything_in_the_end(tmp_path, monkeypatch):
    """Its client keeps what was not sent, and raises errors of its own."""
    from tensorboardX import record_writer

    class Bucket(io.BytesIO):
        fails = 2

        def fileno(self):
            return file.fileno()

        def flush(self):
            Bucket.fails -= 1
            if Bucket.fails >= 0:
                raise RuntimeError("503 service unavailable")
            file.seek(0)
            file.write(self.getvalue())
            file.flush()

        def close(self):
            self.flush()

    told = []
    (tmp_path / "board").mkdir()
    with (tmp_path / "board/events").open("wb") as file:
        monkeypatch.setattr(record_writer, "open_file", lambda name: Bucket())
        monkeypatch.setattr(board_module, "FLUSH_SECONDS", -1.0)
        board = Board(tmp_path / "board", 0, told.append)
        for step in range(1, 4):
            board.write(step, {"loss": float(step)}, {})
        board.close()
    assert len(told) == 1 and "503" in told[0]
    assert [event.step for event in events(tmp_path / "board")] == [0, 1, 1, 2, 3]


def test_torch_stays_unimported_and_importable(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboardX"]:
        monkeypatch.delitem(sys.modules, name)
    Board(tmp_path, 0, pytest.fail).close()
    assert "torch" not in sys.modules
