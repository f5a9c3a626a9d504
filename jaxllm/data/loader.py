"""Batches for training and validation: the batch of a step is a function of config, seed and step.

A host asks for the rows that its devices hold; which rows those are changes nothing in them, so a
run resumes at any step, on any number of hosts, with the batches it would have seen.
"""

from __future__ import annotations

import abc
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
from jaxllm.core.paths import path
from jaxllm.data import mixture, tokenizers
from jaxllm.data.batch import Batch, Window, stack
from jaxllm.data.config import DataConfig
from jaxllm.data.objectives import (
    Objective,
    RowObjective,
    make_objective,
    objective_class,
    stream_config,
    trains_on_rows,
)
from jaxllm.data.rows.examples import Examples
from jaxllm.data.rows.load import Opened, open_rows
from jaxllm.data.rows.packing import PackedRows, Packs
from jaxllm.data.rows.render import with_template
from jaxllm.data.sources import TokenSource
from jaxllm.data.tokenizers import Tokenizer

EMPTY = Examples({}, np.zeros(0, np.int64))
MOST_WORKERS = MOST_PREFETCH = 1024
FORMAT = 2  # of the examples that a config and a seed give; grows when they change


class TrainingData:
    """The training examples of a run. Row r of step s is example s · global_batch_size + r."""

    def __init__(
        self, config: DataConfig, seed: int, decoder_start_id: int = -1, tokenizer: str = "",
        opened: Opened | None = None,
    ):
        """Opens the sources of `config.mixture`; of prepared data no tokens are read yet, rows are
        tokenised, unless they are given as `opened`.

        `decoder_start_id` is the model's, see `make_objective`; `tokenizer` is the folder of the
        one that rows are written with, "" for that of the prepared data beside them.

        Raises:
          UserError: see `mixture.open_prepared`, `make_objective` and `open_rows`; also a seed out
            of range.
        """
        if not 0 <= seed < 2**32:  # jax.random.key keeps 32 bits
            raise UserError(f"seed={seed} must lie between 0 and 2**32 - 1 = {2**32 - 1}.")
        for name, least, most in (("workers", 0, MOST_WORKERS), ("prefetch", 1, MOST_PREFETCH)):
            if not least <= getattr(config, name) <= most:
                raise UserError(
                    f"data.{name}={getattr(config, name)} must be at least {least} and at most "
                    f"{most}."
                )
        objective_class(config.objective)  # a wrong name is told before the data are looked at
        self.config, self.seed, self._decoder_start_id = config, seed, decoder_start_id
        self._prepared = mixture.open_prepared(config)
        self._tokenizer = tokenizer
        first = next(iter(self._prepared.values()), None)
        if first is None and not tokenizer:
            raise UserError(
                "tokenizer.path is empty: rows are text, and no source of data.mixture is prepared "
                "data that has a tokenizer. Name the folder of one; that of the model to be tuned."
            )
        self.tokenizer_path = path(tokenizer) if first is None else first.tokenizer_path
        self._objective = make_objective(config, self.load_tokenizer, decoder_start_id)
        self.tokenizer_hash = (
            self.load_tokenizer().hash if first is None else first.manifest.tokenizer.hash
        )
        self._rows: RowObjective | None = None
        self._stream: Objective | None = self._objective
        self._opened = Opened({}, ())
        if isinstance(self._objective, RowObjective):
            self._rows, self._stream = self._objective, self._stream_beside_rows()
            others = [name for name in sorted(config.mixture) if name not in self._prepared]
            self._opened = opened or open_rows(config, others, self._objective)
        found = {**self._prepared, **self._opened.sources}
        self.sources = {name: found[name] for name in sorted(found)}
        self._mix()

    def _mix(self) -> None:
        """Weighs the sources and puts their examples in order."""
        config, stream, rows = self.config, self._stream, self._rows
        parts = mixture.parts(config, self.sources, stream, rows, self.seed)
        self.epochs = {name: len(part) for name, part in parts.items()}  # examples of each
        self.weights = mixture.weights(config, self.epochs, self._opened.sources.keys())
        self._turns = mixture.WeightedTurns(list(self.weights.values()))
        self._examples = mixture.examples(parts, self._turns, stream, rows, self.seed)

    def __reduce__(self):
        sources = {
            name: source._replace(validation=EMPTY)  # workers read training rows only
            for name, source in self._opened.sources.items()
        }
        opened = self._opened._replace(sources=sources) if self._rows else None
        return TrainingData, (
            self.config, self.seed, self._decoder_start_id, self._tokenizer, opened
        )

    def _stream_beside_rows(self) -> Objective | None:
        """What reads the prepared data beside rows."""
        if not self._prepared:
            return None
        config = stream_config(self.config, bool(self.load_tokenizer().sentinel_ids))
        return make_objective(config, self.load_tokenizer, self._decoder_start_id)

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer of all sources, with the chat template of the config; raises as
        `TokenSource.load_tokenizer`."""
        first = next(iter(self._prepared.values()), None)
        tokenizer = tokenizers.load(self._tokenizer) if first is None else first.load_tokenizer()
        return with_template(tokenizer, self.config.chat_template)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of classes or tags by their ids; () where the objective has none."""
        return self._opened.labels

    @property
    def remarks(self) -> list[str]:
        """What a user should know of the rows, such as that some were cut."""
        return [remark for one in self._opened.sources.values() for remark in one.remarks]

    def validation(self) -> dict[str, Validation]:
        """What each source keeps out of training; rows of which nothing is are left out."""
        found: dict[str, Validation] = {}
        for name, source in self.sources.items():
            if isinstance(source, TokenSource):
                found[name] = ValidationData(
                    self.config.mixture[name].path, self.config, self._decoder_start_id
                )
            elif len(source.validation):
                found[name] = ValidationRows(source.validation, self._objective)
        return found

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
        several = len(self.sources) > 1  # one has all turns, whatever its weight
        parts = {
            "format": FORMAT,
            "mixture": {
                name: [config.mixture[name].weight if several else 1.0, _contents(source)]
                for name, source in self.sources.items()
            },
            "tokenizer": self.tokenizer_hash, "seed": self.seed, "shuffle": config.shuffle,
            "sequence_length": config.sequence_length, "objective": config.objective,
            "options": to_dict(getattr(config, options)) if options else {},
            "lengths": self.lengths, "decoder_start_id": self._decoder_start_id,
            "global_batch_size": config.global_batch_size,
            "block_cross_document_attention": config.block_cross_document_attention,
        }
        if config.mixture_temperature and several:
            parts["mixture_temperature"] = self.weights
        if self._rows:
            parts["rows"] = [
                self.labels, {name: getattr(config, name) for name in self._rows.READS}
            ]
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


def _contents(source: mixture.Source) -> list[str]:
    """What changes when the data of a source do."""
    if isinstance(source, TokenSource):
        return [shard.sha256 for shard in source.shards]
    return ["rows", source.train.digest()]


class Validation(abc.ABC):
    """What a model is validated on: rows of the batch in a fixed order."""

    bytes_per_token: float | None = None  # of the text; None where the loss is not the text's
    _objective: Objective
    _blocks: bool = True  # attention stays inside a segment

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @abc.abstractmethod
    def example(self, index: int) -> Batch:
        """Row `index`, [T] arrays."""

    def batches(
        self, batch_size: int, limit: int = 0, rows: Sequence[int] | np.ndarray | None = None
    ) -> Iterator[Batch]:
        """Batches [batch_size, T] of all rows, or the first `limit` batches.

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


class ValidationRows(Validation):
    """Rows that are kept out of training, each once, packed as the training rows are."""

    def __init__(self, examples: Examples, objective: RowObjective):
        self._objective = objective
        packs = Packs(
            examples.lengths, objective.sequence_length, 0, shuffle=False,
            packing=mixture.packs_rows(objective.config, objective),
        )
        self._packed = PackedRows(examples, packs)

    def __len__(self) -> int:
        return len(self._packed)

    def example(self, index: int) -> Batch:
        return self._objective.example(self._packed[index], np.random.default_rng(0))


class ValidationData(Validation):
    """The validation split of a prepared folder, each token a target once (but the very first)."""

    def __init__(self, folder: str, config: DataConfig, decoder_start_id: int = -1):
        """Opens the split; of `config` the objective, its options and the lengths are read.

        An objective of rows reads it as it reads prepared data beside rows.

        Raises:
          UserError: no prepared data there, too few tokens, or see `make_objective`.
        """
        self.source = TokenSource(folder, "validation")
        if trains_on_rows(config.objective):
            config = stream_config(config, bool(self.source.load_tokenizer().sentinel_ids))
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
