"""What converting a model costs: memory beside the model, and the rate beside the disk's own.

  python tools/bench/convert.py            # a folder of Llama 3.2 1B's shape, 2.5 GB: two minutes
  python tools/bench/convert.py --debug    # a tiny one

Each is a process of its own that starts with the files dropped from the page cache, and takes turns
with plain reads that go to the same place: for "blocks", which makes every block of
every parameter and drops it, a buffer; for "onto a device", which is what `train.init_from` and
`--model` do, memory of the model's size (whose first touch costs a virtual machine more than the
disk); for what writes as much as it reads, a copy. Peak memory is RssAnon, which mapped files are
no part of; the model on its device is subtracted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import measure

PIECE = 8 * 2**20
GOALS = "goals: peak extra memory under 1.5 GB, at least 0.5 of the disk's read rate"


def main() -> int:
    arguments = _arguments()
    if arguments.work:
        return _work(*arguments.work)
    print(measure.machine("orbax-checkpoint", "ml_dtypes"))
    print(GOALS)
    with tempfile.TemporaryDirectory(prefix="jaxllm_bench_", dir=arguments.folder) as place:
        folder, run, again = (str(Path(place) / name) for name in ("hf", "run", "again"))
        _child("make", folder, "llama_debug" if arguments.debug else "llama3.2_1b")
        size = _size(folder)
        print(f"folder                   {size / 1e9:.2f} GB, bfloat16")
        rounds = 1 if arguments.debug else arguments.rounds
        for name, work, base in (
            ("blocks", ("blocks", folder, ""), ("read", folder, "")),
            ("onto a device", ("load", folder, "bfloat16"), ("fill", folder, "")),
            ("folder to run", ("convert", folder, run), ("copy", folder, f"{place}/copy")),
            ("run to folder", ("convert", run, again), ("copy", folder, f"{place}/copy")),
        ):
            _print(name, size, *_in_turns(work, base, rounds))
        same = all(
            file.read_bytes() == (Path(again) / file.name).read_bytes()
            for file in Path(folder).iterdir() if file.name != "generation_config.json"
        )
        print(f"there and back           {'bitwise equal' if same else 'DIFFERENT'}")
    return 0 if same else 1


def _in_turns(work: Sequence[str], base: Sequence[str], rounds: int) -> tuple[list, list]:
    """What our work and the plain reads gave, each in turn from a cold cache."""
    ours, plain = [], []
    for _ in range(rounds):
        for command, results in ((base, plain), (work, ours)):
            _drop(command[1])
            if command[0] in ("convert", "copy"):
                shutil.rmtree(command[2], ignore_errors=True)
            results.append(_child(*command))
    return ours, plain


def _print(name: str, size: int, ours: list, plain: list) -> None:
    """Rates of the fastest rounds, and the highest of the peaks."""
    own, disk = (size / 1e9 / min(r["seconds"] for r in results) for results in (ours, plain))
    peak = max(result["extra"] for result in ours) / 1e9
    print(f"{name:<16} {own:.2f} GB/s, the plain way {disk:.2f} GB/s: ratio {own / disk:.2f}; "
          f"peak extra memory {peak:.2f} GB", flush=True)


def _child(*work: str) -> dict[str, float]:
    """What a process of its own says of its work."""
    done = subprocess.run(
        (measure.PYTHON, __file__, "--work", *work), env=measure.environment(), text=True,
        stdout=subprocess.PIPE, check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _work(kind: str, source: str, target: str) -> int:
    from jaxllm.core import devices

    devices.start()
    kinds = {
        "make": _make, "read": _read, "fill": _fill, "copy": _copy, "blocks": _blocks,
        "load": _load, "convert": _convert,
    }
    work = kinds[kind](source, target)
    peak, done = [_memory()], threading.Event()
    before = peak[0]

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], _memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    kept = work()
    seconds = time.perf_counter() - begin
    done.set()
    watcher.join()
    print(json.dumps({"seconds": seconds, "extra": peak[0] - before - (kept or 0)}))
    return 0


def _make(folder: str, preset: str):
    import dataclasses

    import numpy as np

    from jaxllm.models import config as models
    from jaxllm.models.hf.exporter import export_params, write_config
    from jaxllm.models.hf.mapping import flatten

    config = models.preset(preset)
    config = dataclasses.replace(config, vocab_size=config.vocab_size or 512).completed()
    specs = _specs(config, "bfloat16")
    shapes = {name: spec.shape for name, spec in flatten(specs).items()}
    dtypes = {name: spec.dtype for name, spec in flatten(specs).items()}
    rng = np.random.default_rng(0)

    def blocks(name: str):
        whole = tuple(slice(0, size) for size in shapes[name][1:])
        step = max(1, PIECE * shapes[name][0] // int(np.prod(shapes[name])))
        for row in range(0, shapes[name][0], step):
            rows = slice(row, min(row + step, shapes[name][0]))
            size = (rows.stop - row, *shapes[name][1:])
            block = rng.standard_normal(size, np.float32) * np.float32(0.02)
            yield (rows, *whole), block.astype(dtypes[name])

    def work() -> None:
        export_params(folder, config, specs, dtypes, blocks, 5 * 10**9)
        write_config(folder, config, dtypes["embedding.table"], {}, None)

    return work


def _read(folder: str, _: str):
    """Plain reads into a buffer."""
    buffer = memoryview(bytearray(PIECE))

    def work() -> None:
        for _ in _pieces(folder, lambda at: buffer):
            pass

    return work


def _fill(folder: str, _: str):
    """Plain reads into memory of the files' size."""
    import numpy as np

    def work() -> int:
        memory = np.empty(_size(folder), np.uint8)
        for _ in _pieces(folder, lambda at: memory[at : at + PIECE]):
            pass
        return memory.nbytes

    return work


def _copy(folder: str, target: str):
    """Plain reads and writes, until all is on disk."""
    buffer = memoryview(bytearray(PIECE))

    def work() -> None:
        Path(target).mkdir()
        with open(f"{target}/copy", "wb", buffering=0) as out:
            for count in _pieces(folder, lambda at: buffer):
                out.write(buffer[:count])
            os.fsync(out.fileno())

    return work


def _pieces(folder: str, place: Callable[[int], Any]) -> Iterator[int]:
    """Reads the tensors' files into `place(bytes so far)`; gives how much at a time."""
    at = 0
    for path in _files(folder):
        if path.suffix == ".safetensors":
            with open(path, "rb", buffering=0) as handle:
                while count := handle.readinto(place(at)):
                    at += count
                    yield count


def _blocks(folder: str, _: str):
    from concurrent.futures import ThreadPoolExecutor

    from jaxllm.core.streaming import blocks, part_shape
    from jaxllm.models.hf.importer import THREADS, Source, read_model_config
    from jaxllm.models.hf.mapping import flatten

    config = read_model_config(folder)
    specs = _specs(config, "bfloat16")

    def work() -> None:
        source = Source(folder, config, specs)
        with ThreadPoolExecutor(THREADS) as pool:
            for name, spec in flatten(specs).items():
                leaf = source.streamed(name, spec.dtype, pool)
                for index in blocks(spec.shape, part_shape(spec.shape, leaf.dtype.itemsize)):
                    leaf.make(index)

    return work


def _load(folder: str, dtype: str):
    import jax

    from jaxllm.models.load import find_model
    from jaxllm.nn.compute import make_compute

    def work() -> int:
        model = find_model(folder).load(make_compute(param_dtype=dtype), print)
        return sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))

    return work


def _convert(source: str, target: str):
    from jaxllm.core.display import make_display
    from jaxllm.models.convert import convert

    def work() -> None:
        with make_display() as display:
            convert(source, target, display, check=False)

    return work


def _specs(config, dtype: str):
    from jaxllm.models.transformer import Transformer
    from jaxllm.nn.compute import make_compute
    from jaxllm.nn.module import abstract

    return abstract(partial(Transformer, config=config, compute=make_compute(param_dtype=dtype)))[1]


def _memory() -> int:
    """Bytes of memory that no file stands for."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def _files(folder: str | Path) -> list[Path]:
    return [path for path in Path(folder).rglob("*") if path.is_file()]


def _size(folder: str) -> int:
    return sum(path.stat().st_size for path in _files(folder) if path.suffix == ".safetensors")


def _drop(folder: str) -> None:
    """Drops the files from the page cache."""
    for path in _files(folder):
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--debug", action="store_true", help="a tiny model")
    parser.add_argument("--folder", help="on the disk to measure (default: the temporary one)")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
