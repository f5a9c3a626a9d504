"""TensorBoard's event files, written by the thread that has the numbers.

tensorboardX's SummaryWriter hands events to a thread of its own over a queue of ten. A disk that
fills up ends that thread, and a run would wait for it without end.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from etils import epath

from jaxllm.core.paths import make_directory, unwritable

FLUSH_SECONDS = 30.0  # in a bucket each writes the whole file again


class Board:
    """An event file: numbers and texts by step."""

    def __init__(self, folder: epath.Path, resume_step: int):
        """What other files of the folder have of later steps than `resume_step` is hidden.

        Raises:
          UserError: the folder cannot be written, here and in every method.
        """
        events, self._summary, protos = _tensorboardx()
        self._event, log = protos.Event, protos.SessionLog
        self._folder, self._flushed = make_directory(folder), time.monotonic()
        try:
            self._writer = events.EventsWriter(os.path.join(folder, "events"))
        except OSError as error:
            raise unwritable(folder, error) from error
        self._write(resume_step + 1, session_log=log(status=log.START))

    def write(self, step: int, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """Adds what was measured at a step, by its tag."""
        parts = [self._summary.scalar(tag, value) for tag, value in numbers.items()]
        parts += [self._summary.text(tag, text) for tag, text in texts.items()]
        values = [value for part in parts for value in part.value]
        if values:
            self._write(step, summary={"value": values})

    def close(self) -> None:
        """Writes what is not written yet."""
        try:
            self._writer.close()
        except OSError as error:
            raise unwritable(self._folder, error) from error

    def _write(self, step: int, **content) -> None:
        try:
            self._writer.write_event(self._event(step=step, wall_time=time.time(), **content))
            if time.monotonic() > self._flushed + FLUSH_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            raise unwritable(self._folder, error) from error


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
