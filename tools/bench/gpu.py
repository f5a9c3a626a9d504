r"""One NVIDIA H200 or H100: our training step beside torch's, in one call of under 8 minutes.

  python3 tools/bench/gpu.py                            # all parts, the most important first
  python3 tools/bench/gpu.py --parts=ceiling,jaxllm_1b  # some
  python tools/bench/gpu.py --debug                     # everything tiny on a CPU

Parts: the measured bf16 matmul ceiling and torch's attention kernels; a Llama-shaped 1B and an
8B-shaped stack of as many layers as fit, ours and transformers under torch.compile (float32
weights, bf16 products, sequence 4096, AdamW, clipping); our attention kernels with and without
documents; loss chunk sizes; the 1B step on packed rows; nanoGPT's GPU character recipe. Each part
is its own process, so that memory is clean and a crash loses one part; one that runs out of memory
is tried again smaller. Results are printed as they come and kept in $OUT/gpu.json.

The lent GPU machine (Python 3.12, jax 0.11.2, torch and transformers installed) lacks
ml-collections, which all of ours imports, and grain, array-record, portpicker and tensorboardX,
which `jaxllm train` needs; its flax, optax and orbax-checkpoint may be of other versions than
constraints.txt. Carry wheels of all eight (7 MB; what they need in turn is there):

  echo /.whl/ >> .git/info/exclude
  python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    -d .whl ml-collections==1.1.0 grain==0.2.18 array-record==0.8.6 portpicker==1.6.0 \
    tensorboardX==2.6.5 flax==0.12.12 optax==0.2.8 orbax-checkpoint==0.12.8

and run there, with `.whl` in `carry`:

  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target /tmp/site .whl/*.whl && export PYTHONPATH=/tmp/site PYTHONUNBUFFERED=1 || exit
  python3 tools/bench/gpu.py
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import measure

DATA_SHEET = 989.0  # dense bf16 TFLOP/s of an H100 or H200
LARGE = 120 * 1024  # MiB: an H200 rather than an H100

# name: seconds at most, in the order of importance
PARTS = {
    "ceiling": 70, "jaxllm_1b": 130, "torch_1b": 150, "jaxllm_8b": 130, "torch_8b": 150,
    "attention": 80, "loss": 60, "jaxllm_1b_packed": 100, "chars": 200,
}

Result = dict[str, Any]


def main() -> int:
    arguments = _arguments()
    deadline = time.monotonic() + arguments.budget
    card, memory = ("CPU (debug)", LARGE) if arguments.debug else _card()
    print(measure.machine("torch", "transformers", "orbax-checkpoint"))
    print(f"accelerator: {card}, {memory / 1024:.0f} GiB", flush=True)
    results: dict[str, Result] = {"machine": {"card": card, "memory_mib": memory}}
    for part in arguments.parts:
        for options in _attempts(part, memory, arguments, results):
            left = deadline - time.monotonic()
            if left < 20:
                print(f"{part}: skipped, {left:.0f} s are left")
                break
            result = _run(part, options, min(PARTS[part], left), arguments.debug)
            results[part] = result
            _save(results)
            if "out_of_memory" not in result:
                break
    _summary(results)
    return 0


def _attempts(
    part: str, memory: int, arguments: argparse.Namespace, results: dict[str, Result]
) -> list[Result]:
    """The sizes to try, largest first: the next one only when memory did not suffice."""
    large = memory >= LARGE
    backend = results.get("ceiling", {}).get("torch_attention", "flash")
    shared = {
        "length": 64 if arguments.debug else 4096, "remat": arguments.remat,
        "unroll": arguments.unroll, "loss_tokens": arguments.loss_tokens,
        "torch_attention": backend, "documents": 4 if part.endswith("packed") else 0,
    }
    if "_1b" in part:
        first = arguments.batch or (8 if large else 4)
        sizes = [b for b in (16, 12, 8, 6, 4, 2, 1) if b <= first]
        return [{**shared, "model": "1b", "layers": 0, "batch": b} for b in sizes]
    if "_8b" in part:
        first = arguments.layers or (16 if large else 8)
        sizes = [n for n in (32, 24, 20, 16, 12, 8, 6, 4, 2) if n <= first]
        return [{**shared, "model": "8b", "layers": n, "batch": 2} for n in sizes]
    return [shared]


def _run(part: str, options: Result, limit: float, debug: bool) -> Result:
    """Runs a part in its own process; what it had printed counts, even if it fails."""
    command = (measure.PYTHON, str(Path(__file__).with_name("gpu_parts.py")), part,
               json.dumps({**options, "debug": debug}))
    begin = time.monotonic()
    result: Result = {"options": options}
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            command, cwd=measure.ROOT, env=_environment(part, debug), text=True,
            stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
        )
        timer = threading.Timer(limit, _kill, (child,))
        timer.start()
        for line in child.stdout:
            if line.startswith("> "):
                result |= json.loads(line[2:])
                print(f"{part}: {line[2:].strip()}", flush=True)
        timer.cancel()
        if child.wait():
            errors.seek(0)
            result["ended_with"] = child.returncode
            result["stderr"] = errors.read()[-1500:]
            print(f"{part}: ended with {child.returncode} (limit {limit:.0f} s)\n"
                  f"{result['stderr']}", flush=True)
    result["part_seconds"] = round(time.monotonic() - begin, 1)
    return result


def _environment(part: str, debug: bool) -> dict[str, str]:
    changes = {"JAX_PLATFORMS": "cpu"}
    if not debug and not part.startswith("torch"):
        changes["JAX_PLATFORMS"] = "cuda,cpu"
    if part.startswith("jaxllm"):
        changes["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.95"
    else:
        changes["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    changes["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    return measure.environment(**changes)


def _kill(child: subprocess.Popen) -> None:
    """The child and what it started, such as torch's compile workers."""
    os.killpg(child.pid, signal.SIGKILL)


def _card() -> tuple[str, int]:
    """The GPU's name and its memory in MiB."""
    output = subprocess.run(
        ("nvidia-smi", "--query-gpu=name,memory.total,driver_version",
         "--format=csv,noheader,nounits"),
        check=True, text=True, stdout=subprocess.PIPE,
    ).stdout
    name, memory, driver = (field.strip() for field in output.splitlines()[0].split(","))
    return f"{name}, driver {driver}", int(memory)


def _save(results: dict[str, Result]) -> None:
    if folder := os.environ.get("OUT"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")


def _summary(results: dict[str, Result]) -> None:
    """The table to read: both sides of each model, against the measured ceiling."""
    measured = results.get("ceiling", {})
    ceiling = max(measured.get("torch_tflops", 0), measured.get("jax_tflops", 0))
    against = ceiling or DATA_SHEET
    print(f"\nceiling {ceiling:.0f} TFLOP/s measured (data sheet {DATA_SHEET:.0f})")
    print(f"{'part':<18}{'layers':>7}{'tokens':>8}{'step s':>9}{'tokens/s':>10}{'TFLOP/s':>9}"
          f"{'% ceiling':>10}{'peak GiB':>10}")
    for part, result in results.items():
        if "step_seconds" not in result:
            continue
        print(f"{part:<18}{result['layers']:>7}{result['tokens']:>8}{result['step_seconds']:>9.4f}"
              f"{result['tokens_per_second']:>10.0f}{result['tflops']:>9.1f}"
              f"{100 * result['tflops'] / against:>10.1f}{result['peak_gib'] or 0:>10.1f}")
    for size in ("1b", "8b"):
        ours, theirs = (results.get(f"{side}_{size}", {}) for side in ("jaxllm", "torch"))
        if "tflops" in ours and "tflops" in theirs:
            # of FLOPs per second: the two may fit different batches or layers
            print(f"{size}: jaxllm / torch ratio {ours['tflops'] / theirs['tflops']:.3f}")
    if "best_validation_loss" in results.get("chars", {}):
        print(f"character recipe: best validation loss "
              f"{results['chars']['best_validation_loss']:.4f} (goal 1.47)")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="which, in order")
    parser.add_argument("--budget", type=float, default=460, help="seconds for everything")
    parser.add_argument("--batch", type=int, default=0, help="rows of the 1B step; 0: by memory")
    parser.add_argument("--layers", type=int, default=0, help="of the 8B stack; 0: by memory")
    parser.add_argument("--remat", default="none", help="train.remat")
    parser.add_argument("--unroll", type=int, default=1, help="train.unroll")
    parser.add_argument("--loss_tokens", type=int, default=0,
                        help="tokens per loss chunk; 0: what the trainer chooses")
    parser.add_argument("--debug", action="store_true", help="tiny sizes on a CPU")
    arguments = parser.parse_args()
    arguments.parts = arguments.parts.split(",")
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"--parts: {', '.join(unknown)} is none of {', '.join(PARTS)}")
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
