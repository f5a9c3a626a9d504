"""`jaxllm VERB --flags`: finds the verb's file, and turns how it ends into an exit code."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from jaxllm.core import watch
from jaxllm.core.errors import (
    EXIT_DONE,
    EXIT_RESUMABLE,
    EXIT_USER_ERROR,
    Interrupted,
    UserError,
    unknown,
)

# In the order of a model's life; each is the file cli/VERB.py with `main(argv) -> int`.
SAVING = ("train",)  # verbs that write checkpoints
VERBS = (
    "advise", "prepare", "preview", "plan", "check", "distill", "train", "eval", "generate",
    "convert", "report",
)


def main(argv: list[str] | None = None) -> int:
    """Runs a verb; gives its exit code (0 done, 2 the user's mistake, 3 resumable)."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text())
        return EXIT_DONE
    try:
        if argv[0] not in VERBS:
            raise unknown("verb", argv[0], VERBS)
        # a failure here ends the run's processes on other hosts too
        with _ended_by_sigterm(argv[0]), watch.together():
            return importlib.import_module(f"jaxllm.cli.{argv[0]}").main(argv[1:])
    except UserError as error:
        print(f"jaxllm: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Interrupted as stop:
        print(f"jaxllm: {stop}", file=sys.stderr)
        return EXIT_RESUMABLE
    except KeyboardInterrupt:
        print(f"jaxllm: interrupted{_lost(argv[0])}.", file=sys.stderr)
        return EXIT_RESUMABLE
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        return EXIT_DONE


def _lost(verb: str) -> str:
    return "; nothing was saved since the last checkpoint" if verb in SAVING else ""


@contextlib.contextmanager
def _ended_by_sigterm(verb: str) -> Iterator[None]:
    """SIGTERM, which clusters send, ends a verb with the code of what can be resumed.

    At once: an exception in the middle of an import of jax would crash. A trainer that has begun
    saves first, see train/interrupt.py.
    """
    def end(number: int, frame: object) -> None:
        cursor = "\x1b[?25h\n" if os.isatty(2) else ""  # a live line may hide it
        os.write(2, f"{cursor}jaxllm: terminated{_lost(verb)}.\n".encode())
        os._exit(EXIT_RESUMABLE)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if watch.current is None:  # of several hosts jax's own handler has taken the place of this
            signal.signal(signal.SIGTERM, before)


def help_text() -> str:
    """The verbs with a line each, read from their files without importing them."""
    lines = ["usage: jaxllm VERB [--flags]      (jaxllm VERB --help for the flags)", ""]
    for verb in VERBS:
        source = (Path(__file__).parent / f"{verb}.py").read_text(encoding="utf-8")
        first = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
        lines.append(f"  {verb:<10} {first.split(': ', 1)[-1]}")
    lines += [
        "",
        "A recipe is --config=FILE[:variant], overridden by --config.section.field=value.",
        "Exit codes: 0 done, 1 a bug, 2 a mistake in the command or its input, 3 stopped and",
        "resumable by the same command.",
    ]
    return "\n".join(lines)
