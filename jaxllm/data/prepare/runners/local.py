"""The cores of this machine: a pool of processes, or none at all where the work is small."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

from jaxllm.core.display import Display
from jaxllm.core.errors import UserError
from jaxllm.data.prepare.runners.base import Progress
from jaxllm.data.prepare.work import Task, execute

SMALL_BYTES = 8 * 2**20  # less than this is done sooner than processes start


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalRunner:
    """Does tasks in `workers` processes, which start with the first phase that is worth it."""

    def __init__(self, workers: int = 1, small_bytes: int = SMALL_BYTES):
        """0 workers: one a core."""
        self._workers, self._small_bytes = workers or cores(), small_bytes
        self._pool: ProcessPoolExecutor | None = None
        self._leash: Connection | None = None  # closing it ends the workers

    def run(self, title: str, tasks: Sequence[Task], done: int, display: Display) -> None:
        """Does all tasks."""
        small = sum(task.bytes for task in tasks) < self._small_bytes
        with Progress(display, title, done, done + len(tasks)) as progress:
            if self._workers == 1 or len(tasks) == 1 or small:
                for task in tasks:
                    execute(task)
                    progress.advance()
            else:
                self._in_pool(tasks, progress)

    def close(self) -> None:
        """Ends the workers, in the middle of a task if need be."""
        if self._pool is not None:
            self._leash.close()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _in_pool(self, tasks: Sequence[Task], progress: Progress) -> None:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            theirs, self._leash = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(self._workers, context, _begin, (theirs,))
        try:
            for future in as_completed([self._pool.submit(execute, task) for task in tasks]):
                future.result()
                progress.advance()
        except BrokenProcessPool as error:
            self.close()
            raise UserError(
                "A worker of `jaxllm prepare` was killed, most likely because the machine's memory "
                f"was full. Give the same command with fewer workers (--workers={self._workers} "
                "now): it goes on where it was."
            ) from error
        except BaseException:
            self.close()
            raise


def _begin(leash: Connection) -> None:
    """A worker leaves Ctrl-C to the driver, and ends when the driver does, however that ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the cores have a worker each
    threading.Thread(target=_follow, args=(leash,), daemon=True).start()


def _follow(leash: Connection) -> None:
    leash.poll(None)  # nothing is ever sent: it ends when the other end is closed
    os._exit(1)
