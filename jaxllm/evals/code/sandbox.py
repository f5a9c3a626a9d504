"""Runs a program that nobody has read: in a process of its own, locked in by guard.py.

A program can still read what this user can read, so keep secrets elsewhere; it cannot send them
anywhere, change files outside its temporary folder, or outlive its time.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from jaxllm.core.errors import UserError
from jaxllm.evals.code.guard import REFUSED

GUARD = Path(__file__).with_name("guard.py")
SECONDS = 10
MEMORY = 1 << 30  # bytes of address space
SHOWN = 400  # characters of the end of what a program says


class Outcome(NamedTuple):
    """How a program ended."""

    passed: bool  # it ran to its last line
    reason: str  # "" | timeout | the end of its standard error


def run(program: str, *, seconds: int = SECONDS, memory: int = MEMORY) -> Outcome:
    """Runs Python source; it passes when its last line is reached.

    Raises:
      UserError: this machine has no namespaces or no Landlock to lock it in with.
    """
    with tempfile.TemporaryDirectory() as folder:
        place, mark = Path(folder), f"passed-{secrets.token_hex(8)}"
        # a program that leaves early, by exit() say, has not passed
        (place / "program.py").write_text(f"{program}\nopen({mark!r}, 'w').close()\n")
        errors = place / "errors"
        command = [sys.executable, "-I", str(GUARD), "program.py", str(seconds), str(memory)]
        with errors.open("wb") as stream:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=stream, start_new_session=True, env={},
            )
            try:
                code = process.wait(seconds + 1)
            except subprocess.TimeoutExpired:
                return Outcome(False, "timeout")
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said = errors.read_bytes().decode(errors="replace").strip()[-SHOWN:]
        if code == REFUSED:
            raise UserError(
                f"This machine cannot lock in a model's programs (no {said}): a Linux kernel from "
                "6.2 with user namespaces and Landlock can. Run pass@k there."
            )
        if (place / mark).exists() and code == 0:
            return Outcome(True, "")
        return Outcome(False, said or f"exit code {code}")
