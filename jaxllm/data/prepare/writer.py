"""Token shards, each made of its range of the token stream that the chunks of a split make up."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import numpy as np
from array_record.python import array_record_module
from etils import epath

from jaxllm.core.paths import in_bucket, path, unwritable
from jaxllm.data import blocks
from jaxllm.data.prepare.work import Result, Work

OPTIONS = "group_size:1"  # every record can be read without its neighbours


@dataclass(frozen=True)
class Piece:
    """Tokens of a chunk, from one place in it to another."""

    chunk: str
    begin: int
    end: int


@dataclass(frozen=True)
class ShardItem:
    """A file of the result and where its tokens are."""

    split: str
    name: str
    dtype: str
    pieces: tuple[Piece, ...]


def shard_items(
    split: str, counts: Iterable[tuple[str, int]], dtype: np.dtype, block_tokens: int,
    tokens_per_shard: int,
) -> list[ShardItem]:
    """The shards of a split, whose chunks have these names and numbers of tokens.

    Shards hold whole blocks, so at least one block and otherwise `tokens_per_shard`.
    """
    size = max(1, tokens_per_shard // block_tokens) * block_tokens
    shards: list[list[Piece]] = []
    room = 0
    for chunk, tokens in counts:
        begin = 0
        while begin < tokens:
            if room == 0:
                shards.append([])
                room = size
            end = min(begin + room, tokens)
            shards[-1].append(Piece(chunk, begin, end))
            room -= end - begin
            begin = end
    return [
        ShardItem(split, f"{split}-{index:05d}-of-{len(shards):05d}.array_record", dtype.str,
                  tuple(pieces))
        for index, pieces in enumerate(shards)
    ]


def shard(work: Work, item: ShardItem) -> Result:
    """Writes one shard; gives what the manifest says of it."""
    dtype = np.dtype(item.dtype)
    records = tokens = 0
    with _scratch(work) as file:
        writer = array_record_module.ArrayRecordWriter(str(file), OPTIONS)
        try:
            for block in _blocks(work, item, dtype):
                writer.write(blocks.encode(block, dtype))
                records += 1
                tokens += len(block.tokens)
            writer.close()
        except RuntimeError as error:
            raise _explain(file, error) from error
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        result = {"name": item.name, "sha256": digest, "bytes": file.stat().st_size,
                  "records": records, "tokens": tokens}
        _move(file, path(work.output) / item.name)
    return result


def _blocks(work: Work, item: ShardItem, dtype: np.dtype) -> Iterator[blocks.Block]:
    """The shard's tokens with the places where documents begin, block by block."""
    size = work.config.output.block_tokens
    tokens, starts = np.zeros(0, dtype), np.zeros(0, np.int64)
    for piece in item.pieces:
        new_tokens, new_starts = _read(work, item.split, piece, dtype)
        starts = np.concatenate([starts, new_starts + len(tokens)])
        tokens = np.concatenate([tokens, new_tokens])
        whole = len(tokens) // size * size
        for place in range(0, whole, size):
            begin, end = np.searchsorted(starts, (place, place + size))
            yield blocks.Block(tokens[place : place + size], starts[begin:end] - place)
        starts = starts[np.searchsorted(starts, whole) :] - whole
        tokens = tokens[whole:]
    if len(tokens):
        yield blocks.Block(tokens, starts)


def _read(
    work: Work, split: str, piece: Piece, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of a piece, and where in it documents begin."""
    with work.tokens(piece.chunk, split).open("rb") as stream:
        stream.seek(piece.begin * dtype.itemsize)
        tokens = np.frombuffer(stream.read((piece.end - piece.begin) * dtype.itemsize), dtype)
    lengths = np.frombuffer(work.lengths(piece.chunk, split).read_bytes(), "<u8").astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    starts = np.unique(starts[lengths > 0])  # a document without tokens begins nowhere
    begin, end = np.searchsorted(starts, (piece.begin, piece.end))
    return tokens, starts[begin:end] - piece.begin


@contextlib.contextmanager
def _scratch(work: Work) -> Iterator[Path]:
    """A place for an unfinished shard: in the work folder where that is a local disk, so that
    finishing is a rename; else on the machine's own."""
    remote = in_bucket(work.folder)
    file = Path(tempfile.gettempdir() if remote else work.folder) / f".shard-{token_hex(4)}"
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def _move(file: Path, target: epath.Path) -> None:
    try:
        if in_bucket(target):
            path(file).copy(target, overwrite=True)
        else:
            os.replace(file, target)
    except OSError as error:
        raise unwritable(target, error) from error


def _explain(file: Path, error: RuntimeError) -> Exception:
    """ArrayRecord reports every failed write as a RuntimeError with the system's words in it."""
    full = os.strerror(errno.ENOSPC) in str(error)
    return unwritable(path(file), OSError(errno.ENOSPC if full else errno.EIO, str(error)))
