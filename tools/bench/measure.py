"""What every benchmark shares: naming the machine, taking turns, and printing ratios.

Two programs that are compared run on the same cores in the same minutes: each is a child process
that waits for a line, does so many steps and answers their times (A B A B …), so that a neighbour's
load falls on both.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
JAXLLM = (PYTHON, "-m", "jaxllm")


def machine(*packages: str) -> str:
    """The processor, its cores, the load at the start and the versions measured with."""
    cores = len(os.sched_getaffinity(0))
    names = ("jax", "flax", "optax", *packages)
    versions = [f"{name} {_version(name)}" for name in names]
    return (
        f"machine: {_cpu()}, {cores} cores, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


def environment(**changes: str) -> dict[str, str]:
    """The environment of a child process: this checkout is importable, jax is on the CPU."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    base = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    return {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2", **base, **changes}


def run(command: Sequence[str], **changes: str) -> float:
    """Wall seconds of a command that must succeed; its output is shown only when it does not."""
    begin = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=environment(**changes), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}")
    return seconds


class Worker:
    """A child process that does timed steps on demand; see `serve`."""

    def __init__(self, command: Sequence[str], **changes: str):
        self._child = subprocess.Popen(
            command, cwd=ROOT, env=environment(**changes), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        self.facts = self._answer()

    def steps(self, count: int) -> list[float]:
        """Seconds of each of `count` steps."""
        self._child.stdin.write(f"{count}\n")
        self._child.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Lets the child end."""
        self._child.stdin.close()
        self._child.wait()

    def _answer(self):
        for line in self._child.stdout:
            if line.startswith("> "):
                return json.loads(line[2:])
        raise SystemExit(f"{self._child.args} ended with {self._child.wait()}.")


def serve(step: Callable[[], float], **facts) -> None:
    """The child's side of `Worker`: `step` does one step, synchronised, and gives the loss."""
    for _ in range(3):
        facts["loss"] = step()
    print("> " + json.dumps(facts), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            begin = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - begin)
        print("> " + json.dumps(seconds), flush=True)


def alternate(workers: dict[str, Worker], rounds: int, steps: int) -> dict[str, list[float]]:
    """Step seconds by name: every round gives each worker its turn."""
    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            times[name] += worker.steps(steps)
    for worker in workers.values():
        worker.close()
    return times


def compare(times: dict[str, list[float]], unit: str = "ms") -> None:
    """Prints minimum and median of each, and the ratio of each to the first."""
    scale = {"ms": 1e3, "s": 1.0}[unit]
    first = next(iter(times.values()))
    for name, seconds in times.items():
        low, middle = min(seconds), statistics.median(seconds)
        print(
            f"{name:<24} min {low * scale:8.2f} {unit}   median {middle * scale:8.2f} {unit}   "
            f"ratio to the first: min {low / min(first):.2f}, "
            f"median {middle / statistics.median(first):.2f}"
        )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
