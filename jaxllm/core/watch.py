"""One process of a run fails, all end soon and say which: the watch over a run on several hosts.

Left to itself, a process whose peer is gone waits in a collective for ever (TPU, NCCL), raises
what the network said (Gloo), or is aborted by jax's coordination client after minutes. Here each
process writes a heartbeat into the coordination service's key-value store. Process 0, which holds
the store, looks for those who fell silent and writes the verdict, whom the run lost and why; all
read it within seconds and end. A process that raises an exception writes the verdict itself. A
lost process 0 takes the store with it, which the others notice at once.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from jaxllm.core.errors import (
    EXIT_BUG,
    EXIT_RESUMABLE,
    EXIT_USER_ERROR,
    Interrupted,
    UserError,
)

BEAT_SECONDS = 2.0
SILENCE_SECONDS = 30.0  # without a heartbeat a process is lost
SUSPICION_SECONDS = 10.0  # the same when another process's collective has failed
LINGER_SECONDS = 10.0  # that process 0 keeps the store for the others to read the verdict
END_SECONDS = 300.0  # that those who are done wait for those who are not
BACKSTOP_SECONDS = 60  # after which jax's own heartbeat aborts, should this watch be stuck
PREFIX = "jaxllm/"
# What a collective or the store says when another process is gone, and a bug does not.
PEER_SIGNS = (
    "gloo", "connection reset", "connection closed", "connection refused", "broken pipe",
    "socket closed", "unavailable", "deadline_exceeded", "heartbeat", "coordination",
    "nccl", "barrier", "megascale", "unhealthy", "aborted",
)


class Lost(Interrupted):
    """Another process did not come to a barrier in time."""


def before_connecting(coordinator: str | None, processes: int | None, seconds: float) -> None:
    """Turns jax's abort, should the others not come within `seconds`, into an exit in words."""
    count = f"the {processes} processes" if processes else "the processes"
    address = f" at {coordinator}" if coordinator else ""
    _aborted.words = (
        f"Not all of {count} of the run came together{address} within {seconds:.0f} s. Start the "
        "same command on every host, and let the hosts reach that address."
    )
    _aborted.install()


def start() -> None:
    """Begins to watch over the processes that jax.distributed has joined."""
    global current
    from jax._src.distributed import global_state  # what Orbax uses too; there is no public way

    _aborted.words = None
    current = Watch(
        global_state.client, global_state.process_id, global_state.num_processes,
        global_state.coordinator_address,
    )
    atexit.register(current.end)  # before jax's own, which waits for processes that are gone
    current.begin()


current: Watch | None = None


@contextlib.contextmanager
def together() -> Iterator[None]:
    """An exception that leaves the block ends the run's other processes too, naming this one.

    If it only shows that another process is gone, this one ends here and says which.
    """
    try:
        yield
    except BaseException as error:
        if current:
            current.failed(error)
        raise


def barrier(name: str, seconds: float) -> None:
    """Waits until every process of the run is here; alone it returns at once.

    Raises:
      Lost: one did not come within `seconds`; it is named.
    """
    if current:
        current.barrier(name, seconds)


class Watch:
    """A thread that writes this process's heartbeat and reads the others' fate."""

    def __init__(self, client: Any, process: int, processes: int, coordinator: str):
        self._client, self.process, self.processes = client, process, processes
        self._coordinator = coordinator
        self._state = "runs"  # then: suspects, done, or ends
        self._code: int | None = None  # of the exit, once this process failed
        self._heard: dict[int, tuple[str, float]] = {}
        self._silent: list[int] = []
        self._reached = time.monotonic()  # when the store last answered
        self._stop = threading.Event()
        self._verdict = threading.Event()
        self._threads = [threading.Thread(target=self._run, name="watch", daemon=True)]
        if process:
            guard = threading.Thread(target=self._guard, name="watch-guard", daemon=True)
            self._threads.append(guard)

    def begin(self) -> None:
        """Says who this is, and starts the threads."""
        name = f"process {self.process} on {socket.gethostname()} (pid {os.getpid()})"
        self._client.key_value_set(f"{PREFIX}name/{self.process}", name)
        self._first = (
            name if self.process == 0
            else self._client.blocking_key_value_get(f"{PREFIX}name/0", 60_000)
        )
        for thread in self._threads:
            thread.start()

    def failed(self, error: BaseException) -> None:
        """Tells the others why this process ends; does not return if another's end is why."""
        if type(error) is Interrupted or self._code is not None:
            return  # all processes stop at one step, or this was told before
        code, text = _outcome(error)
        if code == 0:
            return
        if _speaks_of_a_peer(error):
            self._state = "suspects"
            self._verdict.wait(SUSPICION_SECONDS + 5 * BEAT_SECONDS)
        if self._verdict.is_set():
            threading.Event().wait()  # the watching thread is about to end the process
        self._code = code
        self._tell(f"{self._name(self.process)} {text}", code)

    def end(self) -> None:
        """Called when Python exits: leaves with the others, or without them after a failure."""
        if self._code is not None:
            self._leave(self._code)
        self._state = "done"
        with contextlib.suppress(Exception):
            self.barrier("the end of the run", END_SECONDS)
        self._stop.set()
        for thread in self._threads:
            thread.join(BEAT_SECONDS * 5)

    def barrier(self, name: str, seconds: float) -> None:
        """See the function."""
        key = f"{PREFIX}at/{name}/"
        self._client.key_value_set(f"{key}{self.process}", "", allow_overwrite=True)
        try:
            self._client.wait_at_barrier(f"{PREFIX}{name}", int(seconds * 1000))
        except Exception as error:
            came = {int(key.rpartition("/")[2]) for key, _ in self._client.key_value_dir_get(key)}
            absent = sorted(set(range(self.processes)) - came)
            if not absent:
                raise
            raise Lost(
                f"{_list(map(self._name, absent))} did not come to {name} within {seconds:.0f} s, "
                "and the others cannot go on. The same command continues from the last checkpoint."
            ) from error

    def _run(self) -> None:
        count = 0
        while not self._stop.wait(BEAT_SECONDS if count else 0):
            count += 1
            try:
                beat = f"{count} {self._state}"
                self._client.key_value_set(
                    f"{PREFIX}beat/{self.process}", beat, allow_overwrite=True
                )
                verdict = dict(self._client.key_value_dir_get(f"{PREFIX}verdict/"))
                self._reached = time.monotonic()
            except Exception:
                if self._stop.is_set():
                    return
                self._check_coordinator()
                continue
            if verdict and self._code is None:
                self._obey(json.loads(next(iter(verdict.values()))))
            if self.process == 0 and not verdict:
                self._judge()

    def _judge(self) -> None:
        """Process 0 looks for silent processes, and writes the verdict on them."""
        now, suspects = time.monotonic(), self._state == "suspects"
        for key, beat in self._client.key_value_dir_get(f"{PREFIX}beat/"):
            process = int(key.rpartition("/")[2])
            suspects |= beat.endswith("suspects")
            if self._heard.get(process, ("",))[0] != beat:
                self._heard[process] = (beat, now)
        limit = SUSPICION_SECONDS if suspects else SILENCE_SECONDS
        silent = [p for p in range(1, self.processes) if now - self._since(p, now) > limit]
        if silent:
            self._silent = silent
            names, one = _list(map(self._name, silent)), len(silent) == 1
            self._tell(
                f"{names} {'has' if one else 'have'} not been heard of for {limit:.0f} s: killed, "
                f"or {'its machine is' if one else 'their machines are'} gone.", EXIT_RESUMABLE,
            )

    def _since(self, process: int, now: float) -> float:
        return self._heard.setdefault(process, ("", now))[1]

    def _guard(self) -> None:
        """Ends the process when the store neither answers nor fails: its machine is gone."""
        while not self._stop.wait(BEAT_SECONDS):
            if time.monotonic() - self._reached > SILENCE_SECONDS:
                self._lost_coordinator()

    def _check_coordinator(self) -> None:
        if self.process and not _reachable(self._coordinator):
            self._lost_coordinator()

    def _lost_coordinator(self) -> NoReturn:
        self._verdict.set()
        _say(_closing(
            f"{self._first}, which keeps the run together, is gone: killed, or its machine is.",
            EXIT_RESUMABLE,
        ))
        os._exit(EXIT_RESUMABLE)

    def _tell(self, text: str, code: int) -> None:
        """Writes the verdict, unless there is one."""
        with contextlib.suppress(Exception):
            content = json.dumps({"text": text, "code": code})
            self._client.key_value_set(f"{PREFIX}verdict/all", content)

    def _obey(self, verdict: dict[str, Any]) -> NoReturn:
        self._verdict.set()
        _say(_closing(verdict["text"], verdict["code"]))
        self._leave(verdict["code"])

    def _leave(self, code: int) -> NoReturn:
        """Ends the process; process 0 first lets the others read the verdict."""
        self._state = "ends"
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        with contextlib.suppress(Exception):
            if self.process == 0:
                self._linger()
            else:
                self._client.key_value_set(f"{PREFIX}left/{self.process}", "")
        os._exit(code)

    def _linger(self) -> None:
        deadline = time.monotonic() + LINGER_SECONDS
        while time.monotonic() < deadline:
            left = self._client.key_value_dir_get(f"{PREFIX}left/")
            if len(left) + len(self._silent) >= self.processes - 1:
                return
            time.sleep(BEAT_SECONDS / 10)

    def _name(self, process: int) -> str:
        with contextlib.suppress(Exception):
            return self._client.blocking_key_value_get(f"{PREFIX}name/{process}", 1000)
        return f"process {process}"

    def aborted(self) -> None:
        """jax's client aborts this process: a lost process 0 is an exit in words."""
        if self._state == "ends":
            os._exit(EXIT_RESUMABLE if self._code is None else self._code)
        self._check_coordinator()


class _Abort:
    """The handler of SIGABRT, by which jax's coordination client ends a process from C++.

    Python's own handlers run between two instructions of the main thread, which is too late; this
    one is called by the C library in the thread that aborts. When it returns the abort goes on.
    """

    def __init__(self):
        self.words: str | None = None
        self._handler = None  # must outlive its use

    def install(self) -> None:
        if self._handler is None:
            self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._called)
            register = ctypes.CDLL(None).signal
            register.argtypes, register.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
            register(signal.SIGABRT, ctypes.cast(self._handler, ctypes.c_void_p))

    def _called(self, number: int) -> None:
        if self.words:
            _say(self.words)
            os._exit(EXIT_RESUMABLE)
        if current:
            current.aborted()


_aborted = _Abort()


def _outcome(error: BaseException) -> tuple[int, str]:
    """The exit code of an exception and what to tell the others of it."""
    message = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        return code, f"exited with code {code}."
    if isinstance(error, UserError):
        return EXIT_USER_ERROR, f"stopped: {message}"
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return EXIT_RESUMABLE, f"was interrupted. {message}".rstrip()
    return EXIT_BUG, f"failed, and its own output says where: {type(error).__name__}: {message}"


def _speaks_of_a_peer(error: BaseException) -> bool:
    if isinstance(error, (UserError, SystemExit, KeyboardInterrupt)):
        return False
    text = str(error).lower()
    return any(sign in text for sign in PEER_SIGNS)


def _closing(text: str, code: int) -> str:
    text = text[0].upper() + text[1:]
    resumes = " The same command continues from the last checkpoint."
    if code != EXIT_RESUMABLE or text.endswith(resumes):
        resumes = ""
    return f"{text} This process ends too.{resumes}"


def _say(text: str) -> None:
    """Writes past Python's buffers: the other threads may hold their locks."""
    show_cursor = "\x1b[?25h\n" if os.isatty(2) else ""
    os.write(2, f"{show_cursor}jaxllm: {text}\n".encode())


def _reachable(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def _list(names) -> str:
    return " and ".join(names)
