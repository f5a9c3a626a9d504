"""SIGTERM and SIGINT become a request to stop after the current step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import jax


class Interrupt:
    """A context in which signals ask for a stop; a second SIGINT stops at once."""

    def __init__(self, warn: Callable[[str], None]):
        self._warn, self._signal = warn, 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        # With several hosts jax's own service must see SIGTERM, to agree on a step to stop at.
        several = jax.process_count() > 1
        for number in (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self, step: int) -> bool:
        """Whether to stop after update `step`; all hosts of a run answer alike."""
        if jax.process_count() == 1:
            return self._signal != 0
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def _handle(self, number: int, frame: object) -> None:
        if self._signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._signal = number
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        name = signal.Signals(number).name
        self._warn(f"{name}: stopping after this step; the state is saved first.")
