"""What a runner is: it does tasks that do not depend on one another, each at least once.

A task that is done leaves a mark, so a runner has nothing to give back, and a task may be done
twice (by a worker that was given up, by Beam) without harm.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Protocol

from jaxllm.core.display import Display
from jaxllm.data.prepare.work import Task

LOG_SECONDS = 30.0  # between the lines of a log that is no terminal


class Runner(Protocol):
    """Does the tasks of a phase."""

    def run(self, title: str, tasks: Sequence[Task], done: int, display: Display) -> None:
        """Does all tasks, beside which `done` others were done before.

        Raises:
          UserError: that of a task; others may have been done or not.
        """

    def close(self) -> None:
        """Ends the processes that it holds."""


class Progress:
    """The count of a phase on the display: live, or a line now and then and one at the end.

    A phase of one task is only named, while it lasts.
    """

    def __init__(self, display: Display, title: str, done: int, total: int):
        self._display, self._title, self._done, self._total = display, title, done, total
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Progress:
        if self._total == 1:
            self._stack.enter_context(self._display.phase(self._title))
        else:
            self._display.start(self._title, self._total, self._done)
        self._said = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        if self._total > 1:
            self._display.update(self._done)
            self._display.close()

    def update(self, done: int) -> None:
        """Says how many tasks of the phase are done."""
        self._done = done
        late = time.monotonic() - self._said > LOG_SECONDS
        if self._total > 1 and (self._display.live or late):
            self._said = time.monotonic()
            self._display.update(done)

    def advance(self) -> None:
        """Says that one more is done."""
        self.update(self._done + 1)
