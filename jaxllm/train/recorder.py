"""What a run writes down: metrics a line behind the device, and where the time went."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax

from jaxllm.core.devices import peak_flops, peak_memory_bytes
from jaxllm.core.display import Display
from jaxllm.core.rundir import MetricsWriter
from jaxllm.train.evaluate import perplexity

PHASES = ("compile", "data", "step", "checkpoint", "evaluation", "other")


class NonFinite(Exception):
    """The loss or gradient of update `step` was not finite; the state is that before it."""

    def __init__(self, step: int):
        super().__init__(step)
        self.step = step


class Clock:
    """Splits the wall time of a process into phases; the innermost phase counts."""

    def __init__(self):
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._stack = ["other"]
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time inside goes to `name`."""
        self._switch()
        self._stack.append(name)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()

    def read(self) -> dict[str, float]:
        """Seconds so far, by phase."""
        self._switch()
        return dict(self.seconds)

    def _switch(self) -> None:
        now = time.perf_counter()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now


class Recorder:
    """Takes the device metrics of each step and turns every `log_every`-th into a record.

    Metrics are read one step late, so that the device always has work queued; a read waits for
    the device, and the time between two reads is the true time of a step.
    """

    def __init__(
        self, writer: MetricsWriter, display: Display, clock: Clock, *, log_every: int,
        steps: int, start: int, flops_per_step: float, tokens: int,
    ):
        """`tokens` were trained on before step `start`."""
        self._writer, self._display, self._clock = writer, display, clock
        self._log_every, self._steps = log_every, steps
        self._flops_per_step, self._tokens = flops_per_step, tokens
        self._devices = jax.device_count()
        peak = peak_flops(jax.local_devices()[0])
        self._peak = peak * self._devices if peak else None
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._window = self._snapshot(start)

    @property
    def tokens(self) -> int:
        """Tokens read so far, padding left out, as of the last step read."""
        return self._tokens

    def push(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Notes the metrics of update `step` and reads those of the one before."""
        previous, self._pending = self._pending, (step, metrics)
        if previous:
            self._read(*previous)

    def flush(self) -> None:
        """Reads what is pending; afterwards the device is idle."""
        if self._pending:
            pending, self._pending = self._pending, None
            self._read(*pending)

    def restart_window(self, step: int) -> None:
        """Starts a new timing window, after an evaluation or a checkpoint."""
        self._window = self._snapshot(step)

    def write_times(self, step: int) -> None:
        """Writes where the time of this process went so far."""
        seconds = {f"{k}_seconds": round(v, 3) for k, v in self._clock.read().items()}
        self._writer.write(
            {"step": step, "split": "time", "process": self._writer.process, **seconds}
        )

    def _read(self, step: int, metrics: dict[str, jax.Array]) -> None:
        with self._clock.phase("step"):
            # of an unlogged step only these: every read takes time from a small step
            finite, tokens = metrics["finite"].item(), metrics["tokens"].item()
        if not finite:
            raise NonFinite(step)
        self._tokens += round(tokens)
        logs = step % self._log_every == 0 or step == self._steps
        if logs:
            with self._clock.phase("step"):
                values = {name: value.item() for name, value in jax.device_get(metrics).items()}
            record = self._record(step, values)
            self._writer.write(record)
            self.write_times(step)
            shown = ("loss", "grad_norm", "learning_rate", "tokens_per_second", "mfu")
            self._display.update(step, {name: record[name] for name in shown})
            self._window = self._snapshot(step)
        elif self._display.live:
            self._display.update(step)

    def _record(self, step: int, values: dict[str, float]) -> dict[str, Any]:
        before, now = self._window, self._snapshot(step)
        steps = max(step - before["step"], 1)
        busy = now["busy"] - before["busy"]
        rate = (now["tokens"] - before["tokens"]) / busy if busy > 0 else 0.0
        flops = self._flops_per_step * steps / busy if busy > 0 else 0.0
        return {
            "step": step, "split": "train",
            "loss": values["nll"], "perplexity": perplexity(values["nll"]),
            "grad_norm": values["grad_norm"], "learning_rate": values["learning_rate"],
            "tokens": self._tokens,
            "step_seconds": busy / steps,
            "tokens_per_second": rate,
            "tokens_per_second_per_device": rate / self._devices,
            "mfu": self._mfu(flops),
            "data_wait_seconds": (now["data"] - before["data"]) / steps,
            "peak_memory_bytes": peak_memory_bytes(jax.local_devices()[0]),
        }

    def _mfu(self, flops_per_second: float) -> float | None:
        """The share of the peak; None where that is unknown, or was measured too low to be it."""
        share = flops_per_second / self._peak if self._peak else None
        return share if share is None or share <= 1 else None

    def _snapshot(self, step: int) -> dict[str, float]:
        seconds = self._clock.read()
        # all but compilation, checkpoints and evaluation: a host that is slow is part of a step
        busy = seconds["step"] + seconds["data"] + seconds["other"]
        return {"step": step, "tokens": self._tokens, "data": seconds["data"], "busy": busy}
