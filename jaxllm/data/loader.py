"""Batches for training and validation: the batch of a step is a function of config, seed and step.

A host asks for the rows that its devices hold; which rows those are changes nothing in them, so a
run resumes at any step, on any number of hosts, with the batches it would have seen.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from absl import flags

from jaxllm.core.config import to_dict
from jaxllm.core.errors import UserError
from jaxllm.data import mixture
from jaxllm.data.batch import Batch, Window, stack
from jaxllm.data.config import DataConfig
from jaxllm.data.objectives import make_objective, objective_class
from jaxllm.data.sources import TokenSource
from jaxllm.data.tokenizers import Tokenizer

FORMAT = 2  # of the examples that a config and a seed give; grows when they change


class TrainingData:
    """The training examples of a run. Row r of step s is example s · global_batch_size + r."""

    def __init__(self, config: DataConfig, seed: int, decoder_start_id: int = -1):
        """Opens the sources of `config.mixture`; reads no tokens yet.

        `decoder_start_id` is the model's, see `make_objective`.

        Raises:
          UserError: see `mixture.open_sources` and `make_objective`; also a seed out of range.
        """
        if not 0 <= seed < 2**32:  # jax.random.key keeps 32 bits
            raise UserError(f"seed={seed} must lie between 0 and 2**32 - 1 = {2**32 - 1}.")
        for name, least in (("workers", 0), ("prefetch", 1)):
            if getattr(config, name) < least:
                raise UserError(
                    f"data.{name}={getattr(config, name)} must be at least {least}."
                )
        objective_class(config.objective)  # a wrong name is told before the data are looked at
        self.config, self.seed, self._decoder_start_id = config, seed, decoder_start_id
        self.sources = mixture.open_sources(config)
        self._turns = mixture.turns(config, self.sources)
        first = next(iter(self.sources.values()))
        self.tokenizer_path = first.tokenizer_path
        self.tokenizer_hash = first.manifest.tokenizer.hash
        self._objective = make_objective(config, first.load_tokenizer, decoder_start_id)
        self._examples = mixture.examples(config, self.sources, self._objective, seed)

    def __reduce__(self):
        return TrainingData, (self.config, self.seed, self._decoder_start_id)

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer of all sources; raises as `TokenSource.load_tokenizer`."""
        return next(iter(self.sources.values())).load_tokenizer()

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of a row of the decoder (or only tower) and of the encoder, 0 without one."""
        return self._objective.lengths

    @property
    def targets_per_row(self) -> int:
        """The most places of a row that have a weight; 0: as many as it has tokens."""
        return self._objective.targets_per_row

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that decides the batches: equal fingerprints, equal batches."""
        config = self.config
        options = self._objective.OPTIONS
        parts = {
            "format": FORMAT,
            "mixture": {
                name: [config.mixture[name].weight, [shard.sha256 for shard in source.shards]]
                for name, source in self.sources.items()
            },
            "tokenizer": self.tokenizer_hash, "seed": self.seed, "shuffle": config.shuffle,
            "sequence_length": config.sequence_length, "objective": config.objective,
            "options": to_dict(getattr(config, options)) if options else {},
            "lengths": self.lengths, "decoder_start_id": self._decoder_start_id,
            "global_batch_size": config.global_batch_size,
            "block_cross_document_attention": config.block_cross_document_attention,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def example(self, index: int) -> Batch:
        """Example `index` of the run, [T] arrays."""
        return self._examples[index]

    def source_of(self, index: int) -> str:
        """The name of the source that example `index` is from."""
        return list(self.sources)[self._turns[index][0]]

    def batch_rows(self, step: int, rows: Sequence[int] | np.ndarray) -> Batch:
        """The given rows of the global batch of step `step` (the first is 0), [len(rows), T]."""
        first = step * self.config.global_batch_size
        batch = stack([self._examples[first + int(row)] for row in rows])
        blocks = self.config.block_cross_document_attention
        return batch if blocks else self._objective.joined(batch)

    def iterate(self, start_step: int, rows: Sequence[int] | np.ndarray) -> Iterator[Batch]:
        """`batch_rows` of start_step, start_step + 1, …, made ahead of time by `data.workers`
        processes, or by a thread of this one."""
        steps = grain.MapDataset.range(start_step, start_step + 2**40)
        batches = steps.map(_Rows(self, np.asarray(rows)))
        if self.config.workers == 0:
            options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=self.config.prefetch)
            return iter(batches.to_iter_dataset(options))
        return self._iterate_in_processes(batches)

    def _iterate_in_processes(self, batches: grain.MapDataset) -> Iterator[Batch]:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS(sys.argv[:1])  # Grain's worker processes read absl's global flags
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        processes = grain.MultiprocessingOptions(
            num_workers=self.config.workers, per_worker_buffer_size=self.config.prefetch
        )
        # Pickled by hand: Grain would pass arrays in shared memory, which vanishes under whoever
        # still holds the array, and which it does not free when the run ends.
        sent = batches.map(pickle.dumps).to_iter_dataset(options).mp_prefetch(processes)
        yield from map(pickle.loads, sent)


class _Rows:
    """The rows of a step, as a step of a Grain pipeline that can be sent to a process."""

    def __init__(self, data: TrainingData, rows: np.ndarray):
        self._data, self._rows = data, rows

    def __call__(self, step: int) -> Batch:
        return self._data.batch_rows(step, self._rows)


class ValidationData:
    """The validation split of a prepared folder, each token a target once (but the very first)."""

    def __init__(self, folder: str, config: DataConfig, decoder_start_id: int = -1):
        """Opens the split; of `config` the objective, its options and the lengths are read.

        Raises:
          UserError: no prepared data there, too few tokens, or see `make_objective`.
        """
        self.source = TokenSource(folder, "validation")
        self._blocks = config.block_cross_document_attention
        self._objective = make_objective(config, self.source.load_tokenizer, decoder_start_id)
        self._raw_length = self._objective.raw_length
        self._stride = self._raw_length - self._objective.overlap
        if self.source.num_tokens <= self._objective.overlap:
            raise UserError(
                f"The validation split of {folder} has {self.source.num_tokens} token, so there "
                "is nothing to predict. Prepare the data with a larger split.validation_share."
            )
        self.bytes = self.source.num_bytes
        # Tokens that are no targets, the first of each document, count as the mean of the others.
        covers = self._objective.COVERS_TEXT
        self.bytes_per_token = self.bytes / self.source.num_tokens if covers else None

    def __len__(self) -> int:
        """Windows of the split; the last may be padded."""
        return -(-(self.source.num_tokens - self._objective.overlap) // self._stride)

    def example(self, index: int) -> Batch:
        """Window `index`, [T] arrays; windows do not overlap and are in the order of the text."""
        start = index * self._stride
        stop = min(start + self._raw_length, self.source.num_tokens)
        window = Window(*self.source.slice(start, stop))
        rng = np.random.Generator(np.random.Philox(key=[0, index]))
        return self._objective.example(window, rng)

    def batches(
        self, batch_size: int, limit: int = 0, rows: Sequence[int] | np.ndarray | None = None
    ) -> Iterator[Batch]:
        """Batches [batch_size, T] of all windows, or the first `limit` batches.

        With `rows`, only those rows of each batch are read, [len(rows), T]: what a host needs.
        The last batch is filled with rows of padding, whose weights are 0.
        """
        wanted = range(batch_size) if rows is None else [int(row) for row in rows]
        padding = Batch(*(x if x is None else np.zeros_like(x) for x in self.example(0)))
        starts = range(0, len(self), batch_size)
        for start in starts[:limit] if limit else starts:
            batch = stack([
                self.example(start + row) if start + row < len(self) else padding for row in wanted
            ])
            yield batch if self._blocks else self._objective.joined(batch)
