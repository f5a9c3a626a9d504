"""What is kept of a teacher: of every target the likeliest tokens with their log-probabilities.

A folder has `teacher.json` and shards of ArrayRecord. Record i is example i of the run, whatever
mixes and shuffles it: so what a step reads is a function of the step, and a cache belongs to one
fingerprint of the data. Of an example only the places that have a weight are kept: n · K ids
(uint32), then n · K log-probabilities (float32), little-endian.

Shapes: T tokens, K likeliest tokens.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from array_record.python import array_record_module

from jaxllm.core.errors import UserError
from jaxllm.core.paths import atomic_write_bytes, atomic_write_text, path
from jaxllm.data.batch import Batch
from jaxllm.data.loader import TrainingData
from jaxllm.train.config import Config

FILE = "teacher.json"
FORMAT = "jaxllm teacher 2"
OPTIONS = "group_size:1"  # every record can be read without its neighbours


@dataclass(frozen=True)
class CacheInfo:
    """What teacher.json says."""

    teacher: str  # as the job was told
    teacher_fingerprint: str  # of its parameters
    fingerprint: str  # of the data, see TrainingData.fingerprint
    tokenizer: str  # hash
    temperature: float
    top_k: int
    examples: int  # that are kept, from the first of the run on
    per_shard: int  # examples
    shards: tuple[str, ...]  # sha256 of each

    def write(self, folder: str | os.PathLike) -> None:
        """Writes teacher.json."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        atomic_write_text(path(folder) / FILE, json.dumps(content, indent=1) + "\n")


def read_info(folder: str | os.PathLike, field: str = "tune.distillation.cache") -> CacheInfo:
    """The content of a folder's teacher.json.

    Raises:
      UserError: there is none, or it is something else.
    """
    file = path(folder) / FILE
    fix = "Write it with `jaxllm distill --config=RECIPE --workdir=" + str(folder) + "`."
    if not file.exists():
        raise UserError(f"{field}={str(folder)!r}: there is no {file}. {fix}")
    try:
        content = json.loads(file.read_text())
        if content.pop("format") != FORMAT:
            raise ValueError("it is of another version")
        return CacheInfo(**{**content, "shards": tuple(content["shards"])})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{field}: {file} cannot be read ({error}). {fix}") from error


def shard_name(index: int) -> str:
    """The name of a shard's file."""
    return f"teacher-{index:05d}.array_record"


def encode(ids_TK: np.ndarray, logprobs_TK: np.ndarray, weights_T: np.ndarray) -> bytes:
    """The record of an example."""
    there = weights_T != 0
    return ids_TK[there].astype("<u4").tobytes() + logprobs_TK[there].astype("<f4").tobytes()


def decode(record: bytes, weights_T: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """The arrays [T, K] of a record; places without a weight have id 0 and log-probability 0.

    Raises:
      ValueError: the record is not of as many places.
    """
    there = weights_T != 0
    count = int(there.sum()) * top_k
    if len(record) != 8 * count:
        raise ValueError(f"it has {len(record)} bytes instead of {8 * count}")
    ids_TK = np.zeros((len(weights_T), top_k), np.int32)
    logprobs_TK = np.zeros((len(weights_T), top_k), np.float32)
    ids_TK[there] = np.frombuffer(record, "<u4", count).reshape(-1, top_k)
    logprobs_TK[there] = np.frombuffer(record, "<f4", count, 4 * count).reshape(-1, top_k)
    return ids_TK, logprobs_TK


def write_shard(folder: str | os.PathLike, index: int, records: Sequence[bytes]) -> str:
    """Writes a shard whole or not at all; gives its sha256.

    Raises:
      UserError: the folder cannot be written, or the disk is full.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / shard_name(index)
        writer = array_record_module.ArrayRecordWriter(str(file), OPTIONS)
        for record in records:
            writer.write(record)
        writer.close()
        content = file.read_bytes()
    atomic_write_bytes(path(folder) / shard_name(index), content)
    return hashlib.sha256(content).hexdigest()


class TeacherCache:
    """Random access to what is kept of a teacher."""

    def __init__(self, folder: str | os.PathLike, field: str = "tune.distillation.cache"):
        """Opens nothing yet but teacher.json.

        Raises:
          UserError: see `read_info`; a shard is missing.
        """
        self.folder, self.info = path(folder), read_info(folder, field)
        self._field = field
        self._readers: dict[int, array_record_module.ArrayRecordReader] = {}
        for index in range(len(self.info.shards)):
            if not (self.folder / shard_name(index)).exists():
                raise UserError(
                    f"{field}={str(folder)!r}: {shard_name(index)} is missing. Copy the whole "
                    "folder, or run the same `jaxllm distill` again, which writes what is missing."
                )

    def check(self, fingerprint: str, temperature: float, examples: int) -> None:
        """Refuses a run whose examples are others, or more, or that asks another temperature.

        Raises:
          UserError: naming what differs and what to do.
        """
        info, name = self.info, f"{self._field}={str(self.folder)!r}"
        again = "Run `jaxllm distill` again with this recipe and another --workdir."
        if info.fingerprint != fingerprint:
            raise UserError(
                f"{name} is of other examples: the data, the seed, the batch size or the lengths "
                f"were changed since. {again}"
            )
        if info.temperature != temperature:
            raise UserError(
                f"{name} was taken at temperature {info.temperature:g}. Set "
                f"tune.distillation.temperature={info.temperature:g}, or take it again at "
                f"{temperature:g}."
            )
        if info.examples < examples:
            raise UserError(
                f"{name} has {info.examples:,} examples and the run takes {examples:,}. Lower "
                f"train.steps, or run `jaxllm distill` again with it: it goes on where it stopped."
            )

    def attach(self, batch: Batch, step: int, batch_size: int, rows: Sequence[int]) -> Batch:
        """The batch of these rows of a step (the first is 0) with what the teacher says of them.

        Raises:
          UserError: a damaged record.
        """
        found = [
            self._example(step * batch_size + int(row), weights_T)
            for row, weights_T in zip(rows, batch.weights, strict=True)
        ]
        ids, logprobs = (np.stack(arrays) for arrays in zip(*found, strict=True))
        return batch._replace(teacher_ids=ids, teacher_logprobs=logprobs)

    def attached(
        self, batches: Iterator[Batch], start_step: int, batch_size: int, rows: Sequence[int]
    ) -> Iterator[Batch]:
        """`attach` to the batches of start_step, start_step + 1, …"""
        for step, batch in enumerate(batches, start_step):
            yield self.attach(batch, step, batch_size, rows)

    def _example(self, index: int, weights_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number, place = divmod(index, self.info.per_shard)
        file = self.folder / shard_name(number)
        try:
            if number not in self._readers:
                self._readers[number] = array_record_module.ArrayRecordReader(os.fspath(file))
            return decode(self._readers[number].read([place])[0], weights_T, self.info.top_k)
        except (RuntimeError, IndexError, ValueError) as error:
            raise UserError(
                f"{file} is damaged at record {place}: {str(error)[:200]}. Remove it and run the "
                "same `jaxllm distill` again."
            ) from error


def teacher_cache(config: Config, data: TrainingData) -> TeacherCache | None:
    """The cache that a run reads, checked against its data; None: it reads none.

    Raises:
      UserError: see TeacherCache.
    """
    options = config.tune.distillation
    if not options.cache:
        return None
    found = TeacherCache(options.cache)
    examples = config.train.steps * config.data.global_batch_size
    found.check(data.fingerprint, options.temperature, examples)
    return found
