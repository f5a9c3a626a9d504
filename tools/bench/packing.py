"""Tokens of text a second with packed rows, beside one example in each row of the batch.

  python tools/bench/packing.py                              # the bundled instructions
  python tools/bench/packing.py --rows=alpaca_en_demo.json   # rows of your own
  python tools/bench/packing.py --debug                      # seconds, a tiny model

The same examples, batch and length, and one and the same compiled step of `jaxllm train` on the
20.6M Llama shape, in turns; only data.packing differs. A step's time has in it what the loader
makes the step wait. Exit code 1 when packed rows give less than twice the text of padded ones, or
more than 5 % of them is padding; `--debug` only prints.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import measure

MIN_RATIO, MAX_PADDING = 2.0, 0.05


def main() -> int:
    arguments = _arguments()
    print(measure.machine("grain"))
    with tempfile.TemporaryDirectory(prefix="jaxllm_bench_") as folder:
        sides = _sides(arguments, folder)
        packed, padded = sides.values()
        for side in sides.values():
            side.steps(2)  # the first batches wait for the loader to begin
        for _ in range(arguments.rounds):
            for side in sides.values():
                side.measure(arguments.steps)
    examples = len(packed.data.sources["rows"].train)
    print(f"{arguments.rows}: {examples:,} examples, batch {arguments.batch} x {arguments.length}, "
          f"{len(packed.seconds)} steps each:")
    for name, side in sides.items():
        print(
            f"{name:<24} rows {side.rows:6,d}   padding {side.padding:6.1%}   step median "
            f"{statistics.median(side.seconds) * 1e3:8.1f} ms   text {side.rate:8,.0f} tokens/s   "
            f"epoch {side.epoch:8.1f} s"
        )
    ratio = packed.rate / padded.rate
    print(f"packed / padded          ratio: text a second {ratio:.2f}, seconds an epoch "
          f"{packed.epoch / padded.epoch:.2f}, rows {packed.rows / padded.rows:.2f}")
    print(f"padded to the longest of its batch only, and not to {arguments.length}, the second "
          f"would have {padded.padding_to_longest():.1%} padding")
    holds = ratio >= MIN_RATIO and packed.padding <= MAX_PADDING
    print(f"at least {MIN_RATIO:g} times, at most {MAX_PADDING:.0%} padding: "
          f"{'held' if holds else 'NOT HELD'}")
    return 0 if holds or arguments.debug else 1


class Side:
    """The rows, packed or not, and the state that is trained on them."""

    def __init__(self, data, training, arguments: argparse.Namespace):
        """`training` has the compiled step, and the state to begin with."""
        import jax

        self.data, self._step, self._batch = data, training.compiled, arguments.batch
        self._state = jax.tree.map(lambda x: x.copy(), training.state)
        self._batches = data.iterate(0, range(arguments.batch))
        self.seconds: list[float] = []
        self._text = 0  # tokens of the steps that were measured
        self.rows = data.epochs["rows"]
        self.padding = 1 - data.sources["rows"].train.lengths.sum() / self.rows / arguments.length

    @property
    def rate(self) -> float:
        """Tokens of text a second."""
        return self._text / sum(self.seconds)

    @property
    def epoch(self) -> float:
        """Seconds that all examples once would take."""
        return self.rows / self._batch * statistics.median(self.seconds)

    def measure(self, count: int) -> None:
        """So many steps more, with the text that was in them."""
        for _ in range(count):
            begin = time.perf_counter()
            self._text += self.steps(1)
            self.seconds.append(time.perf_counter() - begin)

    def steps(self, count: int) -> int:
        """So many steps, to their end; the tokens of text in them."""
        import jax
        import numpy as np

        text = 0
        for _ in range(count):
            batch = next(self._batches)
            text += int(np.count_nonzero(batch.segment_ids))
            self._state, metrics = self._step(self._state, jax.device_put(batch))
            jax.block_until_ready((self._state, metrics))
        return text

    def padding_to_longest(self) -> float:
        """The share of padding over an epoch if each batch were as long as its longest row."""
        import numpy as np

        used = total = 0
        for step in range(-(-self.rows // self._batch)):
            batch = self.data.batch_rows(step, range(self._batch))
            lengths = np.count_nonzero(batch.segment_ids, axis=1)
            used, total = used + lengths.sum(), total + lengths.max() * self._batch
        return 1 - used / total


def _sides(arguments: argparse.Namespace, folder: str) -> dict[str, Side]:
    import jax_side

    from jaxllm.core import devices
    from jaxllm.data.config import DataConfig, SourceConfig
    from jaxllm.data.loader import TrainingData
    from jaxllm.models.config import preset
    from jaxllm.nn.compute import make_compute

    devices.start(cache=False)
    _write_tokenizer(arguments, folder)
    source = SourceConfig(arguments.rows, validation_share=0.0)
    config = DataConfig(
        arguments.length, arguments.batch, "sft", mixture={"rows": source}, truncate=True,
        chat_template="chatml", assistant_only_loss=True,
    )
    both = [
        TrainingData(dataclasses.replace(config, packing=packing), 0, tokenizer=folder)
        for packing in (True, False)
    ]
    model = preset("llama_21m")
    if arguments.debug:
        model = dataclasses.replace(preset("llama_debug"), vocab_size=arguments.vocab_size)
    training = jax_side.Training(
        model, both[0].batch_rows(0, range(arguments.batch)),
        compute=make_compute(unroll=4),
    )
    return {
        name: Side(data, training, arguments)
        for name, data in zip(("packed", "padded"), both, strict=True)
    }


def _write_tokenizer(arguments: argparse.Namespace, folder: str) -> None:
    """A BPE tokenizer of the rows' own text, in `folder`."""
    from jaxllm.data.config import SourceConfig
    from jaxllm.data.rows.read import read_rows
    from jaxllm.data.tokenizers import sentencepiece

    texts = (
        str(value) for row in read_rows(arguments.rows, SourceConfig(), "--rows")
        for value in row.columns.values()
    )
    sentencepiece.train(
        texts, vocab_size=arguments.vocab_size, model_type="bpe", character_coverage=1.0,
        user_symbols=("<|im_start|>", "<|im_end|>"),
    ).save(Path(folder))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="sample:rows/instructions.jsonl",
                        help="a file of rows as data.mixture.NAME.path takes it")
    parser.add_argument("--vocab_size", type=int, default=4000, help="of the tokenizer")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=512, help="data.sequence_length")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=5, help="of each side in a round")
    parser.add_argument("--debug", action="store_true", help="a tiny model, seconds")
    arguments = parser.parse_args()
    if arguments.debug:
        arguments.vocab_size, arguments.rounds, arguments.steps = 512, 2, 2
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
