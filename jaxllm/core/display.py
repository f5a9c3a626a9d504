"""What a person sees while a verb works: a live line on a terminal, plain lines in a log.

Results (tables) go to stdout; progress, messages and warnings to stderr, so that a pipe carries
results only. The live line is drawn by a thread a few times a second: `update` only stores
numbers, and may be called after every step.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

Value = float | int | str | None
Values = Mapping[str, Value]

REFRESH_HZ = 4  # a frame costs about 1 ms: well under 1 % of the training it watches
RATE_WINDOW = 60.0  # seconds of steps that the step rate, and so the ETA, is averaged over
BRIEF_PHASE = 0.3  # seconds below which a wait would only flicker, as that for data at every step
LONG_PHASE = 10.0  # seconds after which a log, too, hears of a compilation or a checkpoint
BAR_WIDTH = 32


def make_display(stream: TextIO | None = None) -> Display:
    """The display for `stream` (default: stderr as it is now): live on a terminal, else plain."""
    stream = stream or sys.stderr
    if stream.isatty():
        from rich.console import Console  # 0.1 s that a log need not pay

        console = Console(file=stream, highlight=False, markup=False)
        if not console.is_dumb_terminal:
            return LiveDisplay(console)
    return Display(stream)


class Display:
    """Plain lines; also what the live display shares. A context manager that closes itself."""

    live = False  # True: `update` may be called after every step and costs microseconds

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._progress: Progress | None = None

    def start(self, title: str, total: int | None, done: int = 0) -> None:
        """Begins a count up to `total` (None: unknown) of which `done` exist, as after a resume."""
        self.close()
        self._progress = Progress(title, total, done)

    def update(self, done: int, values: Values | None = None) -> None:
        """Says that `done` of the total are finished; `values` that are None are left out.

        Known names get their units: `loss`, `tokens_per_second`, `mfu` (a fraction), ….
        """
        self._progress.update(done, values)
        progress = self._progress
        parts = [f"{progress.title} {progress.counts()}", *progress.values(), progress.eta_text()]
        self._say("  ".join(part for part in parts if part))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Names what the caller waits for inside; the time of "compiling" stays out of the ETA."""
        if self._progress is None:
            self._progress = Progress("", None, 0)
        progress, begin = self._progress, time.monotonic()
        progress.enter(name)
        try:
            yield
        finally:
            progress.leave()
            seconds = time.monotonic() - begin
            if not self.live and seconds >= LONG_PHASE:
                self._say(f"{name} took {duration(seconds)}")

    def message(self, text: str) -> None:
        """Prints a line of information."""
        self._say(text)

    def warn(self, text: str) -> None:
        """Prints a warning."""
        self._say(f"warning: {text}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """Prints a table to stdout; columns of numbers are aligned right, None is a dash."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        terminal = sys.stdout.isatty()
        table = Table(box=box.SIMPLE_HEAD)
        if terminal:
            table.title, table.title_justify = Text(title), "left"
        for index, name in enumerate(columns):
            numbers = all(_is_number(row[index]) for row in rows)
            # a narrow terminal folds a cell: no digit and no end of a name is left out
            table.add_column(
                Text(name), justify="right" if numbers else "left", overflow="fold"
            )
        for row in rows:
            table.add_row(*(Text(_cell(value)) for value in row))
        with self._paused():
            if terminal:
                Console(file=sys.stdout).print(table)
                return
            drawn = io.StringIO()  # a pipe has no width to fold a title or a table into
            Console(file=drawn, width=10_000).print(table)
            lines = [line.rstrip() for line in drawn.getvalue().splitlines()]
            print(title, *lines[not lines[0] :], sep="\n")

    def close(self) -> None:
        """Ends the count; the display can start another."""
        self._progress = None

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _paused(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()


class LiveDisplay(Display):
    """A bar with the newest numbers, redrawn in place; messages scroll by above it."""

    live = True

    def __init__(self, console):
        super().__init__(console.file)
        self._console = console
        self._live = None
        atexit.register(self.close)  # a crash must not leave the cursor hidden

    def start(self, title: str, total: int | None, done: int = 0) -> None:
        super().start(title, total, done)
        self._begin()

    def update(self, done: int, values: Values | None = None) -> None:
        self._progress.update(done, values)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        with super().phase(name):
            self._begin()
            yield
        if not self._progress.title:
            self.close()  # nothing is being counted: the line goes with the phase

    def warn(self, text: str) -> None:
        self._console.print(f"warning: {text}", style="yellow", soft_wrap=True)

    def close(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None
            if self._progress.title:
                self._console.print(self._frame())
        super().close()

    def _begin(self) -> None:
        from rich.live import Live

        if self._live is None:
            self._live = Live(
                console=self._console,
                get_renderable=self._frame,
                refresh_per_second=REFRESH_HZ,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # a pipe keeps its results
            )
            self._live.start()

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        if self._live:
            self._live.stop()
        try:
            yield
        finally:
            if self._live:
                self._live.start(refresh=True)

    def _frame(self):
        from rich.text import Text

        progress = self._progress
        frame = Text(no_wrap=True, overflow="ellipsis")
        if progress.title:
            frame.append(progress.title, "bold")
        if progress.total:
            width = min(BAR_WIDTH, max(8, self._console.width - 60))
            filled = round(width * min(progress.done / progress.total, 1))
            frame.append(" " + "━" * filled, "cyan")
            frame.append("─" * (width - filled), "dim")
        if progress.title:
            frame.append(f" {progress.counts()}  {progress.eta_text()}".rstrip())
        if progress.phase and progress.phase_seconds() >= BRIEF_PHASE:
            frame.append(f"  {progress.phase} {duration(progress.phase_seconds())}", "magenta")
        if values := progress.values():
            frame.append("\n  " + "  ".join(values))
        return frame


class Progress:
    """How far a count is and how long it will take, with compilation left out of the rate."""

    def __init__(self, title: str, total: int | None, done: int):
        self.title, self.total, self.done = title, total, done
        self._values: Values = {}
        self._phases: list[tuple[str, float]] = []
        self._compile_seconds = 0.0
        self._samples = deque([(self._clock(), done)])

    def update(self, done: int, values: Values | None) -> None:
        """Notes the count; the newest values stay until others are given."""
        self.done = done
        if values:
            self._values = values
        now = self._clock()
        if now - self._samples[-1][0] >= 0.5 or len(self._samples) == 1:
            self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[1][0] > RATE_WINDOW:
            self._samples.popleft()

    def enter(self, phase: str) -> None:
        """A phase begins, maybe inside another."""
        self._phases.append((phase, time.monotonic()))

    def leave(self) -> None:
        """The innermost phase ends."""
        phase, begin = self._phases.pop()
        if phase == "compiling":
            self._compile_seconds += time.monotonic() - begin

    @property
    def phase(self) -> str:
        """The innermost phase, or "" while it simply works."""
        return self._phases[-1][0] if self._phases else ""

    def phase_seconds(self) -> float:
        """How long the innermost phase has lasted."""
        return time.monotonic() - self._phases[-1][1] if self._phases else 0.0

    def eta(self) -> float | None:
        """Seconds to the end at the rate of the last minute; None until there is a rate."""
        (begin, first), (end, last) = self._samples[0], self._samples[-1]
        if not self.total or last <= first or end <= begin:
            return None
        return max(self.total - self.done, 0) * (end - begin) / (last - first)

    def counts(self) -> str:
        """Such as "120/2,000"."""
        return f"{self.done:,}" + (f"/{self.total:,}" if self.total is not None else "")

    def values(self) -> list[str]:
        """The newest values with their names and units."""
        return [_named(name, value) for name, value in self._values.items() if value is not None]

    def eta_text(self) -> str:
        """Such as "ETA 3:05", or "" when it is unknown or the count is complete."""
        seconds = self.eta()
        return f"ETA {duration(max(seconds, 1))}" if seconds else ""

    def _clock(self) -> float:
        return time.monotonic() - self._compile_seconds


def duration(seconds: float) -> str:
    """Such as 8 s, 3:05 (minutes), 2:03:05 (hours) or 4 d 2 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    if whole < 86400:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def short(number: float) -> str:
    """A count in three or four digits, such as 950, 12.3k or 1.25M."""
    for scale, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= scale:
            return f"{number / scale:.3g}{suffix}"
    return f"{number:.3g}"


def visible(text: str) -> str:
    """Control characters made visible, so that nothing in a text can act on the terminal; line
    ends and tabs stay."""
    return "".join(
        c if c in "\n\t" or c.isprintable() else chr(0x2400 + ord(c)) if ord(c) < 32 else "\ufffd"
        for c in text
    )


def _named(name: str, value: Value) -> str:
    if name == "tokens_per_second":
        return f"{short(value)} tokens/s"
    if name == "mfu":
        return f"MFU {value:.1%}".replace("%", " %")
    if name == "learning_rate":
        return f"lr {value:.2e}"
    return f"{name.replace('_', ' ')} {_cell(value)}"


def _cell(value: Value) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _is_number(value: Value) -> bool:
    if isinstance(value, str):
        value = value.replace(",", "").strip("+-%< ").rstrip("kMBT")
        return value.replace(".", "", 1).isdigit()
    return True
