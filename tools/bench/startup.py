"""How long a user waits: `jaxllm --help`, and from the command to the first training step.

  python tools/bench/startup.py            # about two minutes
  python tools/bench/startup.py --debug    # one round each

The first step is done when its line is in metrics.jsonl. Cold: an empty compilation cache; cached:
the same command again. Goals: --help under 0.3 s, cold under 15 s, cached under 8 s.
"""

from __future__ import annotations

import argparse
import collections
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import measure

HEAVY = ("jax", "flax", "numpy", "orbax", "grain")


def main() -> int:
    arguments = _arguments()
    rounds = 1 if arguments.debug else arguments.rounds
    print(measure.machine("orbax-checkpoint", "grain"))
    seconds = [measure.run((*measure.JAXLLM, "--help")) for _ in range(3 * rounds)]
    loaded = sorted(_imports("-m", "jaxllm", "--help").keys() & set(HEAVY))
    print(f"jaxllm --help            min {min(seconds):.3f} s, median "
          f"{statistics.median(seconds):.3f} s (goal 0.3); heavy packages loaded: "
          f"{', '.join(loaded) or 'none'}")
    with tempfile.TemporaryDirectory(prefix="jaxllm_bench_") as folder:
        _first_steps(Path(folder), arguments.config, rounds)
    _print_imports()
    return 0


def _first_steps(folder: Path, recipe: str, rounds: int) -> None:
    data = folder / "data"
    measure.run((*measure.JAXLLM, "prepare", "--config=configs/data/shakespeare.py:debug",
                 f"--workdir={data}"))
    command = [*measure.JAXLLM, "train", f"--config={recipe}", "--config.train.log_every=1",
               f"--config.data.mixture.shakespeare.path={data}"]
    times: dict[str, list[float]] = {"cold": [], "cached": []}
    for number in range(rounds):
        cache = str(folder / f"cache{number}")
        for name, seconds in times.items():
            run = folder / f"{name}{number}"
            taken, split = first_step([*command, f"--workdir={run}"], run, JAXLLM_CACHE=cache)
            seconds.append(taken)
            print(f"  {name:<7} {taken:6.2f} s   {split}", flush=True)
    for (name, seconds), goal in zip(times.items(), (15, 8), strict=True):
        print(f"first step, {name:<12} min {min(seconds):.2f} s, median "
              f"{statistics.median(seconds):.2f} s (goal {goal})")
    ratio = statistics.median(times["cold"]) / statistics.median(times["cached"])
    print(f"cold / cached            ratio {ratio:.2f}")


def first_step(command: list[str], run: Path, **changes: str) -> tuple[float, dict[str, float]]:
    """Seconds from the command to the first training record, and what the run says it did."""
    from jaxllm.core.rundir import read_metrics

    begin = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=measure.ROOT, env=measure.environment(**changes), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    records = []
    while not any(r["split"] == "time" for r in records):
        if child.poll() is not None:
            raise SystemExit(f"the run ended with {child.returncode}:\n{child.stdout.read()}")
        time.sleep(0.01)
        records = read_metrics(run / "metrics.jsonl")
    seconds = time.perf_counter() - begin
    child.kill()
    child.communicate()
    split = next(r for r in records if r["split"] == "time")
    kept = {k.removesuffix("_seconds"): v for k, v in split.items() if k.endswith("_seconds")}
    kept["imports and the rest"] = round(seconds - sum(kept.values()), 3)
    return seconds, kept


def _print_imports() -> None:
    """Where importing the training loop spends its time."""
    by_package = _imports("-c", "import jaxllm.cli.train, jaxllm.train.loop")
    total = sum(by_package.values())
    print(f"importing jaxllm.train.loop, {total:.2f} s under -X importtime, by package:")
    for name, seconds in by_package.most_common(12):
        print(f"  {name:<24} {seconds:.3f} s")


def _imports(*arguments: str) -> collections.Counter[str]:
    """Seconds that each top-level package's own modules take to import."""
    done = subprocess.run(
        (measure.PYTHON, "-X", "importtime", *arguments), cwd=measure.ROOT,
        env=measure.environment(), text=True, check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    found: collections.Counter[str] = collections.Counter()
    for line in done.stderr.splitlines():
        match = re.match(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", line)
        if match:
            found[match[2].split(".")[0]] += int(match[1]) / 1e6
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.py:debug",
                        help="a recipe whose mixture is named shakespeare")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--debug", action="store_true", help="one round")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
