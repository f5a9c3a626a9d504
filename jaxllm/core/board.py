"""TensorBoard's event files, a mirror of metrics.jsonl: what ails them never ends or stops a run.

tensorboardX's SummaryWriter hands events to a thread over a queue of ten. A disk that fills up, or
a bucket that is away, ends that thread, and the run would wait for it without end.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from etils import epath

from jaxllm.core.paths import make_directory

FLUSH_SECONDS = 30.0  # in a bucket each writes the whole file again


class Board:
    """An event file: numbers and texts by step, written by a thread of its own."""

    def __init__(self, folder: epath.Path, resume_step: int, warn: Callable[[str], None]):
        """What other files of the folder have of later steps than `resume_step` is hidden.

        What cannot be written is told to `warn`, once. A bucket gets it with what follows; a file
        on a disk that was full for a while is read up to there.

        Raises:
          UserError: the folder cannot be made.
        """
        events, self._summary, messages = _tensorboardx()
        self._event, log = messages.Event, messages.SessionLog
        self._folder, self._warn = make_directory(folder), warn
        self._reason, self._warned, self._flushed = "", False, time.monotonic()
        self._thread, self._writer = ThreadPoolExecutor(1, "tensorboard"), None
        self._trying(lambda: self._open(events))
        self._write(resume_step + 1, session_log=log(status=log.START))

    def write(self, step: int, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """Adds what was measured at a step, by its tag."""
        parts = [self._summary.scalar(tag, value) for tag, value in numbers.items()]
        parts += [self._summary.text(tag, text) for tag, text in texts.items()]
        values = [value for part in parts for value in part.value]
        if values:
            self._write(step, summary={"value": values})

    def close(self) -> None:
        """Waits until everything is written."""
        if self._writer:
            self._thread.submit(self._trying, self._writer.close)
        self._thread.shutdown()
        self._tell()

    def _open(self, events) -> None:
        self._writer = events.EventsWriter(os.path.join(self._folder, "events"))

    def _write(self, step: int, **content) -> None:
        if self._writer:
            event = self._event(step=step, wall_time=time.time(), **content)
            self._thread.submit(self._trying, lambda: self._put(event))
        self._tell()

    def _put(self, event) -> None:
        self._writer.write_event(event)
        if time.monotonic() > self._flushed + FLUSH_SECONDS:
            self._flushed = time.monotonic()
            self._writer.flush()

    def _trying(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # a bucket's client has errors of its own
            self._reason = self._reason or f"{type(error).__name__}: {error}"

    def _tell(self) -> None:
        """In the run's thread, as everything that it shows."""
        if self._reason and not self._warned:
            self._warned = True
            self._warn(
                f"TensorBoard's files in {self._folder} cannot be written ({self._reason}). The "
                "run goes on, and metrics.jsonl has everything."
            )


def _tensorboardx():
    """The modules of events, summaries and messages; `jaxllm eval` need not pay their 0.1 s.

    Where torch is installed tensorboardX would import that too, in 2 s, for tensors that it is
    never given.
    """
    hides = "torch" not in sys.modules
    if hides:
        sys.modules["torch"] = None  # an import of it is an ImportError, which it expects
    try:
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2
    finally:
        if hides:
            del sys.modules["torch"]
    return event_file_writer, summary, event_pb2
