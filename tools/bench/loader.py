"""How fast one core makes training batches, beside what the 20.6M-parameter CPU step eats.

  python tools/bench/loader.py

Prepares the bundled corpora into a temporary folder, binds itself to one core and prints, for each
shape, tokens per second and their ratio to 512 tokens in 0.35 s. The prefetching iterator is what
training uses: its thread shares the core here, so nothing is hidden by parallelism.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time

from jaxllm.core.display import Display
from jaxllm.data.config import DataConfig, SourceConfig
from jaxllm.data.loader import TrainingData
from jaxllm.data.prepare.config import default_config, resolve_config
from jaxllm.data.prepare.pipeline import prepare

STEP_TOKENS, STEP_SECONDS = 512, 0.35  # 2 x 256 tokens a step, issue 2
TARGET = 20
SECONDS = 2.0  # of each measurement
SHAPES = (  # sequence length, batch, sources
    (256, 2, ("shakespeare",)), (256, 2, ("shakespeare", "fomc")), (64, 12, ("shakespeare",)),
    (4096, 8, ("shakespeare",)),
)


def main() -> None:
    """Prints the table."""
    with contextlib.suppress(AttributeError):  # not on every system
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    need = STEP_TOKENS / STEP_SECONDS
    print(f"the step eats {need:,.0f} tokens/s; the loader must give {TARGET} times that\n")
    print(f"{'length':>6} {'batch':>5} {'sources':>7} {'tokens/s':>12} {'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        _prepare(folder)
        for length, batch, names in SHAPES:
            mixture = {name: SourceConfig(f"{folder}/{name}") for name in names}
            data = TrainingData(DataConfig(length, batch, mixture=mixture), seed=0)
            rate = _rate(data)
            print(f"{length:>6} {batch:>5} {len(names):>7} {rate:>12,.0f} {rate / need:>7,.0f}x")


def _rate(data: TrainingData) -> float:
    batches, tokens = data.iterate(0, range(data.config.global_batch_size)), 0
    next(batches)
    begin = time.perf_counter()
    while (seconds := time.perf_counter() - begin) < SECONDS:
        tokens += next(batches).inputs.size
    return tokens / seconds


def _prepare(folder: str) -> None:
    config = default_config()
    config.input.document = "paragraph"
    config.tokenizer.vocab_size = 1024
    for name, sample in (("shakespeare", "tinyshakespeare"), ("fomc", "fomc")):
        config.input.paths = (f"sample:{sample}",)
        prepare(resolve_config(config), f"{folder}/{name}", Display(io.StringIO()))
        config = default_config()
        config.tokenizer.path = f"{folder}/shakespeare/tokenizer"


if __name__ == "__main__":
    main()
