"""Token shards, written in blocks as documents arrive and named when their number is known."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from array_record.python import array_record_module
from etils import epath

from jaxllm.core.paths import path, unwritable
from jaxllm.data import blocks
from jaxllm.data.manifest import Shard, Split

OPTIONS = "group_size:1"  # every record can be read without its neighbours


class SplitWriter:
    """Collects the token stream of one split into shards. Holds one block in memory."""

    def __init__(
        self, scratch: Path, split: str, dtype: np.dtype, block_tokens: int, tokens_per_shard: int
    ):
        """Shards hold whole blocks, so at least one block and otherwise `tokens_per_shard`."""
        self._scratch, self._split, self._dtype = scratch, split, dtype
        self._block_tokens = block_tokens
        self._blocks_per_shard = max(1, tokens_per_shard // block_tokens)
        self._pending: list[np.ndarray] = []  # tokens of the block being filled
        self._starts: list[int] = []  # their documents' first tokens
        self._length = 0
        self._writer = None
        self._shards: list[tuple[Path, int, int]] = []  # file, records, tokens
        self._documents = self._characters = self._bytes = 0

    def add(self, text: str, ids: list[int]) -> None:
        """Appends a document with its token ids."""
        self._documents += 1
        self._characters += len(text)
        self._bytes += len(text.encode())
        tokens = np.asarray(ids, self._dtype)
        self._starts.append(self._length)
        while self._length + len(tokens) >= self._block_tokens:
            room = self._block_tokens - self._length
            self._pending.append(tokens[:room])
            self._length = self._block_tokens
            self._write_block()
            tokens = tokens[room:]
        if len(tokens):
            self._pending.append(tokens)
            self._length += len(tokens)

    def finish(self, folder: epath.Path) -> Split:
        """Moves the shards to their final names in `folder`."""
        if self._length:
            self._write_block()
        self._close_shard()
        shards = []
        for index, (file, records, tokens) in enumerate(self._shards):
            name = f"{self._split}-{index:05d}-of-{len(self._shards):05d}.array_record"
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            shards.append(Shard(name, digest, file.stat().st_size, records, tokens))
            _move(file, folder / name)
        return Split(
            self._documents, self._characters, self._bytes, sum(s.tokens for s in shards),
            tuple(shards),
        )

    def _write_block(self) -> None:
        # a document that begins exactly at the end of a block belongs to the next one
        starts = [start for start in self._starts if start < self._length]
        block = blocks.Block(np.concatenate(self._pending), np.asarray(starts, np.int64))
        if self._writer is None:
            file = self._scratch / f"{self._split}-{len(self._shards):05d}"
            self._writer = array_record_module.ArrayRecordWriter(str(file), OPTIONS)
            self._shards.append((file, 0, 0))
        file, records, tokens = self._shards[-1]
        try:
            self._writer.write(blocks.encode(block, self._dtype))
        except RuntimeError as error:
            raise _explain(file, error) from error
        self._shards[-1] = (file, records + 1, tokens + self._length)
        self._starts = [0] if len(starts) < len(self._starts) else []
        self._pending, self._length = [], 0
        if records + 1 == self._blocks_per_shard:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._writer is not None:
            try:
                self._writer.close()
            except RuntimeError as error:
                raise _explain(self._shards[-1][0], error) from error
            self._writer = None


class Scratch:
    """A folder for unfinished shards, gone when the `with` ends: beside the output where that is a
    local disk, so that finishing is a rename; the machine's own where the output is a bucket."""

    def __init__(self, folder: epath.Path):
        self._folder = None if "://" in str(folder) else str(folder)

    def __enter__(self) -> Path:
        try:
            self._path = Path(tempfile.mkdtemp(prefix=".partial-", dir=self._folder))
        except OSError as error:
            raise unwritable(path(self._folder or tempfile.gettempdir()), error) from error
        return self._path

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def _move(file: Path, target: epath.Path) -> None:
    try:
        if "://" in str(target):
            path(file).copy(target, overwrite=True)
        else:
            os.replace(file, target)
    except OSError as error:
        raise unwritable(target, error) from error


def _explain(file: Path, error: RuntimeError) -> Exception:
    """ArrayRecord reports every failed write as a RuntimeError with the system's words in it."""
    full = os.strerror(errno.ENOSPC) in str(error)
    return unwritable(path(file), OSError(errno.ENOSPC if full else errno.EIO, str(error)))
