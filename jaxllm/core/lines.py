"""A file of lines that grows: appended to on a disk, written anew in a bucket, which cannot append.

gcsfs takes mode "a" and overwrites: what a run had written before it was resumed would be gone.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from etils import epath

from jaxllm.core.paths import in_bucket, unwritable

SECONDS = 30.0  # between two writings of a bucket's object


class Lines:
    """Adds lines to a file; whoever reads it sees whole lines only."""

    def __init__(self, target: epath.Path):
        self._target = target
        self._file = None if in_bucket(target) else target.open("a")
        self._waiting: list[str] = []
        self._lock = threading.Lock()  # of what waits
        self._thread = ThreadPoolExecutor(1, "lines") if self._file is None else None
        self._sending: Future | None = None
        self._sent = time.monotonic()

    def add(self, line: str) -> None:
        """Hands a line to the operating system at once; to a bucket within SECONDS of it.

        Raises:
          UserError: the disk is full. What a bucket does not take waits for the next time.
        """
        if self._file is None:
            with self._lock:
                self._waiting.append(line)
            due = time.monotonic() > self._sent + SECONDS
            if due and (self._sending is None or self._sending.done()):
                self._sent = time.monotonic()
                self._sending = self._thread.submit(self._send)
            return
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise unwritable(self._target, error) from error

    def flush(self) -> None:
        """Waits until every line is where a machine that dies does not take it along.

        Raises:
          UserError: the bucket or the disk does not take them.
        """
        if self._thread:
            self._thread.submit(self._send).result()
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno != errno.EINVAL:  # a pipe, say, which has nothing to keep
                raise unwritable(self._target, error) from error

    def close(self) -> None:
        """Flushes, and lets go of the file."""
        if self._file:
            self._file.close()  # every line was handed over
        if self._thread:
            try:
                self.flush()
            finally:
                self._thread.shutdown()

    def _send(self) -> None:
        with self._lock:
            lines, self._waiting = self._waiting, []
        try:
            append(self._target, "".join(lines).encode())
        except BaseException:
            with self._lock:
                self._waiting = lines + self._waiting
            raise


def append(target: epath.Path, lines: bytes) -> None:
    """Adds whole lines to a file, which another process may be adding to.

    On a disk that is one write at whatever is the end then. In a bucket it is a read and a write:
    what another adds between the two is lost.

    Raises:
      UserError: the file cannot be written.
    """
    if not lines:
        return
    try:
        if in_bucket(target):
            _append_in_bucket(str(target), lines)
        else:
            _append_on_disk(target, lines)
    except OSError as error:
        raise unwritable(target, error) from error


def _append_in_bucket(target: str, lines: bytes) -> None:
    import fsspec

    try:
        system, name = fsspec.core.url_to_fs(target)
        try:
            before = system.cat_file(name)  # unlike an open file, by no size that was seen before
        except FileNotFoundError:
            before = b""
        system.pipe_file(name, before + lines)
    except Exception as error:  # the store's client has errors of its own
        raise OSError(f"{type(error).__name__}: {error}") from error


def _append_on_disk(target: epath.Path, lines: bytes) -> None:
    with Path(os.fspath(target)).open("ab+") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":  # a line torn by a crash must not swallow the first
                lines = b"\n" + lines
        file.write(lines)
