"""The whole character recipe on a CPU, from the shell command to the last validation loss.

  python tools/bench/shakespeare_char.py --nanogpt=PATH    # beside nanoGPT's own command
  python tools/bench/shakespeare_char.py                   # beside a GPT-2 step in transformers
  python tools/bench/shakespeare_char.py --debug           # seconds

PATH is a checkout of github.com/karpathy/nanoGPT. Its train.py runs its character recipe with the
CPU flags of its README; its data is made from our bundled copy of the same text, and its checkpoint
is scored as ours is: every non-overlapping window of 64 of the validation part. Ours starts with an
empty compilation cache.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import measure

RECIPE = "configs/shakespeare_char.py"
TEXT = measure.ROOT / "jaxllm/samples/tinyshakespeare/input.txt"

# What its README says to run on a CPU, with `--out_dir` added.
NANOGPT_FLAGS = {
    "device": "cpu", "compile": False, "eval_iters": 20, "log_interval": 1, "block_size": 64,
    "batch_size": 12, "n_layer": 4, "n_head": 4, "n_embd": 128, "max_iters": 2000,
    "lr_decay_iters": 2000, "dropout": 0.0,
}


def main() -> int:
    arguments = _arguments()
    if arguments.worker:
        return _WORKERS[arguments.worker](arguments)
    print(measure.machine("torch", "transformers"))
    with tempfile.TemporaryDirectory(prefix="jaxllm_bench_") as folder:
        ours = _run_ours(Path(folder), arguments.debug)
        if arguments.nanogpt:
            theirs = _run_nanogpt(Path(arguments.nanogpt), Path(folder), arguments.debug)
            ratio = theirs["seconds"] / ours["seconds"]
            print(f"wall: nanoGPT {theirs['seconds']:.1f} s / jaxllm {ours['seconds']:.1f} s "
                  f"= {ratio:.2f} times as fast; validation loss {theirs['loss']:.4f} there, "
                  f"{ours['loss']:.4f} here")
        else:
            _alternate_steps(arguments)
    return 0


def _run_ours(folder: Path, debug: bool) -> dict[str, float]:
    """Prepares, trains and reads what the run wrote down."""
    from jaxllm.core.rundir import read_metrics

    data, run = folder / "data", folder / "run"
    seconds = measure.run((*measure.JAXLLM, "prepare",
                           "--config=configs/data/shakespeare_char.py", f"--workdir={data}"))
    print(f"jaxllm prepare           {seconds:7.1f} s")
    seconds = measure.run(
        (*measure.JAXLLM, "train", f"--config={RECIPE}{':debug' if debug else ''}",
         f"--config.data.mixture.shakespeare.path={data}", f"--workdir={run}"),
        JAXLLM_CACHE=str(folder / "cache"),
    )
    records = read_metrics(run / "metrics.jsonl")
    loss = [r["loss"] for r in records if r["split"] == "validation"][-1]
    steps = [r["step_seconds"] for r in records if r["split"] == "train"]
    time = [r for r in records if r["split"] == "time"][-1]
    split = {k.removesuffix("_seconds"): v for k, v in time.items() if k.endswith("_seconds")}
    print(f"jaxllm train             {seconds:7.1f} s   step {statistics.median(steps) * 1e3:.2f} "
          f"ms   validation loss {loss:.4f}")
    print(f"  up to the last step: {split}")
    return {"seconds": seconds, "loss": loss}


def _run_nanogpt(checkout: Path, folder: Path, debug: bool) -> dict[str, float]:
    """Its own commands, then its checkpoint scored over the whole validation part."""
    data, out = checkout / "data" / "shakespeare_char", folder / "nanogpt"
    shutil.copyfile(TEXT, data / "input.txt")
    subprocess.run((measure.PYTHON, "prepare.py"), cwd=data, check=True, stdout=subprocess.DEVNULL)
    flags = dict(NANOGPT_FLAGS)
    if debug:
        flags |= {"max_iters": 20, "lr_decay_iters": 20, "eval_interval": 10, "eval_iters": 2}
    command = (measure.PYTHON, str(checkout / "train.py"),
               str(checkout / "config" / "train_shakespeare_char.py"), f"--out_dir={out}",
               *(f"--{name}={value}" for name, value in flags.items()))
    # its files name each other relative to its folder
    seconds = measure.run(("env", "-C", str(checkout), *command))
    score = subprocess.run(
        (measure.PYTHON, __file__, "--worker=score", f"--nanogpt={checkout}", f"--out={out}"),
        env=measure.environment(), check=True, text=True, stdout=subprocess.PIPE,
    )
    loss = float(score.stdout.split()[-1])  # its model prints its size first
    print(f"nanoGPT train.py         {seconds:7.1f} s   validation loss {loss:.4f}")
    return {"seconds": seconds, "loss": loss}


def _score(arguments: argparse.Namespace) -> int:
    """Prints the mean loss of nanoGPT's checkpoint over non-overlapping windows."""
    import sys

    import numpy as np
    import torch

    sys.path.insert(0, arguments.nanogpt)
    from model import GPT, GPTConfig

    saved = torch.load(Path(arguments.out) / "ckpt.pt", map_location="cpu", weights_only=True)
    model = GPT(GPTConfig(**saved["model_args"])).eval()
    model.load_state_dict(saved["model"])
    folder = Path(arguments.nanogpt) / "data" / "shakespeare_char"
    tokens = torch.from_numpy(np.fromfile(folder / "val.bin", np.uint16).astype(np.int64))
    T, total, count = model.config.block_size, 0.0, 0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, T):
            row = tokens[start : start + T + 1][None]
            loss = model(row[:, :-1], row[:, 1:].contiguous())[1]
            total, count = total + float(loss) * (row.shape[1] - 1), count + row.shape[1] - 1
    print(total / count)
    return 0


def _alternate_steps(arguments: argparse.Namespace) -> None:
    """The step alone, in turns with an equal GPT-2 of transformers (which has biases)."""
    workers = {
        name: measure.Worker((measure.PYTHON, __file__, f"--worker={name}"))
        for name in ("jaxllm", "torch")
    }
    rounds, steps = (2, 2) if arguments.debug else (8, 25)
    times = measure.alternate(workers, rounds, steps)
    print(f"the step alone, batch 12 x 64, {rounds * steps} steps each:")
    measure.compare({"jaxllm": times["jaxllm"], "transformers, torch": times["torch"]})


def _recipe():
    """The recipe's resolved configuration with tinyshakespeare's 65 characters."""
    import dataclasses
    import runpy

    from jaxllm.train.config import resolve_config

    values = runpy.run_path(str(measure.ROOT / RECIPE))["get_config"]()
    config = resolve_config(values)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=65))


def _serve_jax(arguments: argparse.Namespace) -> int:
    import jax_side

    from jaxllm.core import devices
    from jaxllm.nn.compute import make_compute

    devices.start(cache=False)
    config = _recipe()
    ids = jax_side.random_ids(65, config.data.global_batch_size, config.data.sequence_length)
    training = jax_side.Training(
        config.model, jax_side.batch_of(ids), optimizer=config.optimizer,
        compute=make_compute(unroll=config.train.unroll),
    )
    measure.serve(training.step_synchronised)
    return 0


def _serve_torch(arguments: argparse.Namespace) -> int:
    import jax_side
    import torch
    import torch_peer

    torch.manual_seed(0)
    config = _recipe()
    ids = jax_side.random_ids(65, config.data.global_batch_size, config.data.sequence_length)
    ids = torch.from_numpy(ids).long()
    model = torch_peer.gpt2(config.model, config.data.sequence_length)
    step = torch_peer.make_step(model, config.optimizer, "cpu")
    measure.serve(lambda: float(step(ids)))
    return 0


_WORKERS = {"jaxllm": _serve_jax, "torch": _serve_torch, "score": _score}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", help="folder of a nanoGPT checkout")
    parser.add_argument("--debug", action="store_true", help="a few steps, seconds")
    parser.add_argument("--worker", choices=tuple(_WORKERS), help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
