"""Kills a training run with SIGKILL at random moments and compares it with one left alone.

  python tools/bench/resume.py                 # ten kills, one to three minutes
  python tools/bench/resume.py --debug         # three kills

The same command is started again after every kill. The moments take turns: while it starts, between
two steps, and while a checkpoint is being written. In the end every array of the last checkpoint
must be bitwise equal to the uninterrupted run's, and every record of metrics.jsonl equal but for
its times. Exit code 1 when something differs.
"""

from __future__ import annotations

import argparse
import itertools
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import measure

# fields of a record that tell how fast it went, not what was computed
TIMES = {
    "step_seconds", "tokens_per_second", "tokens_per_second_per_device", "mfu",
    "data_wait_seconds", "peak_memory_bytes",
}


def main() -> int:
    arguments = _arguments()
    print(measure.machine("orbax-checkpoint", "grain"))
    with tempfile.TemporaryDirectory(prefix="jaxllm_bench_") as folder:
        bench = Bench(Path(folder), arguments)
        whole, startup = bench.uninterrupted()
        print(f"uninterrupted: {whole:.1f} s, first step after {startup:.1f} s", flush=True)
        killed = bench.interrupted(startup)
        differences = bench.differences()
    print(f"{len(killed)} of {arguments.kills} kills ({'; '.join(killed)}), "
          f"{bench.resumes} of {len(killed)} restarts went on from a checkpoint")
    for difference in differences[:10]:
        print(f"DIFFERENT: {difference}")
    if not differences:
        print(f"equal: {bench.arrays} arrays bitwise, {bench.records} records")
    return 1 if differences or len(killed) < arguments.kills else 0


class Bench:
    """The two runs: `whole`, left alone, and `killed`."""

    def __init__(self, folder: Path, arguments: argparse.Namespace):
        self.folder, self.arguments = folder, arguments
        self.random = random.Random(arguments.seed)
        self.deadline = time.monotonic() + arguments.limit
        self.arrays = self.records = self.resumes = 0
        data = folder / "data"
        measure.run((*measure.JAXLLM, "prepare", "--config=configs/data/shakespeare.py:debug",
                     f"--workdir={data}"))
        self._command = (
            *measure.JAXLLM, "train", f"--config={arguments.config}",
            f"--config.data.mixture.shakespeare.path={data}",
            f"--config.train.steps={arguments.steps}", "--config.train.log_every=1",
            f"--config.train.eval_every={arguments.every * 2}",
            f"--config.checkpoint.every={arguments.every}",
        )

    def uninterrupted(self) -> tuple[float, float]:
        """Seconds of the whole run and to its first step, once the programs are compiled."""
        self._finish("compiling")
        begin = time.perf_counter()
        child = self._start("whole")
        self._wait(child, lambda: self._steps("whole") > 0)
        startup = time.perf_counter() - begin
        self._end(child)
        return time.perf_counter() - begin, startup

    def interrupted(self, startup: float) -> list[str]:
        """Starts, kills and starts again, then lets it end; gives the kinds of the kills."""
        steps, kills = self.arguments.steps, self.arguments.kills
        targets = sorted(self.random.sample(range(1, steps - 3 * self.arguments.every), kills))
        done = []
        for kind, target in zip(itertools.cycle(("steps", "save", "startup")), targets):
            child = self._start("killed")
            reached = self._moments(kind, target, startup)
            self._wait(child, lambda reached=reached: next(reached))
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
            child.communicate()
            if child.returncode == -signal.SIGKILL:
                half = any("tmp" in name for name in self._checkpoints())
                done.append(f"{kind} at {self._steps('killed')}{', half-written' * half}")
        self._finish("killed")
        return done

    def differences(self) -> list[str]:
        """What is not equal between the two runs, in words."""
        from jaxllm.core.rundir import read_metrics

        found = []
        whole, killed = (
            [_without_times(r) for r in read_metrics(self.folder / name / "metrics.jsonl")
             if r["split"] != "time"]
            for name in ("whole", "killed")
        )
        self.records = len(whole)
        if len(whole) != len(killed):
            found.append(f"{len(whole)} records and {len(killed)}")
        found += [f"{a} and {b}" for a, b in zip(whole, killed, strict=False) if a != b]
        whole, killed = (_arrays(self.folder / name / "checkpoints" / str(self.arguments.steps))
                         for name in ("whole", "killed"))
        self.arrays = len(whole)
        return found + [name for name in whole.keys() | killed.keys()
                        if whole.get(name) != killed.get(name)]

    def _moments(self, kind: str, target: int, startup: float) -> Iterator[bool]:
        """Yields False until the moment to kill has come."""
        if kind == "startup":
            wait = time.monotonic() + self.random.uniform(0, startup)
            while time.monotonic() < wait:
                yield False
        else:
            before = self._metrics_file("killed")
            while self._metrics_file("killed") == before or self._steps("killed") < target:
                yield False
            present = self._checkpoints()
            while kind == "save" and self._checkpoints() <= present:
                yield False
            wait = time.monotonic() + self.random.uniform(0, 0.03)
            while time.monotonic() < wait:
                yield False
        while True:
            yield True

    def _start(self, name: str) -> subprocess.Popen:
        complete = any(entry.isdigit() for entry in self._checkpoints())
        self.resumes += name == "killed" and complete
        return subprocess.Popen(
            (*self._command, f"--workdir={self.folder / name}"), cwd=measure.ROOT, text=True,
            env=measure.environment(JAXLLM_CACHE=str(self.folder / "cache")),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )

    def _finish(self, name: str) -> None:
        self._end(self._start(name))

    def _end(self, child: subprocess.Popen) -> None:
        output, _ = child.communicate(timeout=max(self.deadline - time.monotonic(), 1))
        if child.returncode:
            raise SystemExit(f"the run ended with {child.returncode}:\n{output}")

    def _wait(self, child: subprocess.Popen, reached) -> None:
        while child.poll() is None and not reached():
            if time.monotonic() > self.deadline:
                child.kill()
                raise SystemExit(f"not done within {self.arguments.limit} s")
            time.sleep(0.002)

    def _steps(self, name: str) -> int:
        """The last training step in the run's metrics."""
        from jaxllm.core.rundir import read_metrics

        records = read_metrics(self.folder / name / "metrics.jsonl")
        return max((r["step"] for r in records if r["split"] == "train"), default=0)

    def _metrics_file(self, name: str) -> int:
        """Tells apart the file of each process: a run that resumes writes a new one."""
        file = self.folder / name / "metrics.jsonl"
        return file.stat().st_ino if file.exists() else 0

    def _checkpoints(self) -> set[str]:
        """Names in the checkpoint folder, those being written included."""
        folder = self.folder / "killed" / "checkpoints"
        return {entry.name for entry in folder.iterdir()} if folder.exists() else set()


def _without_times(record: dict) -> dict:
    return {name: value for name, value in record.items() if name not in TIMES}


def _arrays(step: Path) -> dict[str, tuple]:
    """Every array of a checkpoint by path: dtype, shape and bytes."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    jax.config.update("jax_platforms", "cpu")  # libtpu prints a page where it finds no chips
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(step / "state")
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    return {name: (x.dtype, x.shape, x.tobytes()) for name, x in arrays.items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.py:debug",
                        help="a recipe whose mixture is named shakespeare")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--every", type=int, default=10, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--limit", type=float, default=600, help="seconds for everything")
    parser.add_argument("--debug", action="store_true", help="three kills, 40 steps")
    arguments = parser.parse_args()
    if arguments.debug:
        arguments.kills, arguments.steps, arguments.every = 3, 40, 5
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
