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

from jaxllm.core.errors import UserError
from jaxllm.data import mixture
from jaxllm.data.batch import Batch, join_documents, stack
from jaxllm.data.config import DataConfig
from jaxllm.data.objectives import find_objective
from jaxllm.data.sources import TokenSource
from jaxllm.data.windows import Window


class TrainingData:
    """The training examples of a run. Row r of step s is example s · global_batch_size + r."""

    def __init__(self, config: DataConfig, seed: int):
        """Opens the sources of `config.mixture`; reads no tokens yet.

        Raises:
          UserError: see `mixture.open_sources`; also an unknown objective or a seed out of range.
        """
        if not 0 <= seed < 2**32:  # jax.random.key keeps 32 bits
            raise UserError(f"seed={seed} must lie between 0 and 2**32 - 1 = {2**32 - 1}.")
        for name, least in (("workers", 0), ("prefetch", 1)):
            if getattr(config, name) < least:
                raise UserError(
                    f"data.{name}={getattr(config, name)} must be at least {least}."
                )
        self.config, self.seed = config, seed
        self.sources = mixture.open_sources(config)
        self._turns = mixture.turns(config, self.sources)
        objective = find_objective(config.objective)
        self._examples = mixture.examples(config, self.sources, objective, seed)
        first = next(iter(self.sources.values()))
        self.tokenizer_path = first.folder / "tokenizer"
        self.tokenizer_hash = first.manifest.tokenizer.hash

    def __reduce__(self):
        return TrainingData, (self.config, self.seed)

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that decides the batches: equal fingerprints, equal batches."""
        config = self.config
        parts = {
            "mixture": {
                name: [config.mixture[name].weight, [shard.sha256 for shard in source.shards]]
                for name, source in self.sources.items()
            },
            "tokenizer": self.tokenizer_hash, "seed": self.seed, "shuffle": config.shuffle,
            "sequence_length": config.sequence_length, "objective": config.objective,
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
        return batch if self.config.block_cross_document_attention else join_documents(batch)

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

    def __init__(
        self, folder: str, sequence_length: int, objective: str,
        block_cross_document_attention: bool = True,
    ):
        """Opens the split.

        Raises:
          UserError: no prepared data there, or fewer than two tokens.
        """
        self.source = TokenSource(folder, "validation")
        self._blocks = block_cross_document_attention
        self._sequence_length = sequence_length
        self._objective = find_objective(objective)
        self._raw_length = self._objective.raw_length(sequence_length)
        self._stride = self._raw_length - self._objective.OVERLAP
        if self.source.num_tokens <= self._objective.OVERLAP:
            raise UserError(
                f"The validation split of {folder} has {self.source.num_tokens} token, so there "
                "is nothing to predict. Prepare the data with a larger split.validation_share."
            )
        self.bytes = self.source.num_bytes
        # Tokens that are no targets, the first of each document, count as the mean of the others.
        self.bytes_per_token = self.bytes / self.source.num_tokens

    def __len__(self) -> int:
        """Windows of the split; the last may be padded."""
        return -(-(self.source.num_tokens - self._objective.OVERLAP) // self._stride)

    def example(self, index: int) -> Batch:
        """Window `index`, [T] arrays; windows do not overlap and are in the order of the text."""
        start = index * self._stride
        stop = min(start + self._raw_length, self.source.num_tokens)
        window = Window(*self.source.slice(start, stop))
        rng = np.random.Generator(np.random.Philox(key=[0, index]))
        return self._objective.example(window, self._sequence_length, rng)

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
            yield batch if self._blocks else join_documents(batch)
