"""The record of a token shard: a block of the token stream, and where documents begin in it.

    magic "JLTB" · version u16 · bytes per token u16 · tokens u32 · document starts u32
    starts   u32 each, ascending, offsets into the block
    tokens   u16 or u32 each

All little-endian. Blocks of a fixed number of tokens make every place of the stream reachable by
one division; documents run on from block to block.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

MAGIC, VERSION = b"JLTB", 1
HEADER = struct.Struct("<4sHHII")
DTYPES = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


class Block(NamedTuple):
    """Consecutive tokens of the stream."""

    tokens: np.ndarray  # [n] uint16 or uint32
    starts: np.ndarray  # [documents that begin here] int64, offsets into the block


class BadBlock(ValueError):
    """Bytes that are no block."""


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id."""
    return DTYPES[2] if vocab_size <= 2**16 else DTYPES[4]


def encode(block: Block, dtype: np.dtype) -> bytes:
    """The record of a block."""
    header = HEADER.pack(MAGIC, VERSION, dtype.itemsize, len(block.tokens), len(block.starts))
    return header + block.starts.astype("<u4").tobytes() + block.tokens.astype(dtype).tobytes()


def decode(record: bytes, vocab_size: int) -> Block:
    """The block of a record.

    Raises:
      BadBlock: the bytes are damaged, or an id is not below `vocab_size`.
    """
    if len(record) < HEADER.size:
        raise BadBlock(f"{len(record)} bytes are no block")
    magic, version, itemsize, tokens, starts = HEADER.unpack_from(record)
    if magic != MAGIC or version != VERSION or itemsize not in DTYPES:
        raise BadBlock("it does not begin with the header of a block")
    if len(record) != HEADER.size + 4 * starts + itemsize * tokens:
        raise BadBlock(f"it has {len(record)} bytes, its header says otherwise")
    start_B = np.frombuffer(record, "<u4", starts, HEADER.size).astype(np.int64)
    token_B = np.frombuffer(record, DTYPES[itemsize], tokens, HEADER.size + 4 * starts)
    if starts and (start_B[-1] >= tokens or (start_B[1:] <= start_B[:-1]).any()):
        raise BadBlock("its document starts are not ascending offsets")
    if tokens and token_B.max() >= vocab_size:
        raise BadBlock(
            f"token id {token_B.max()} is beyond the vocabulary of {vocab_size} (ids 0 to "
            f"{vocab_size - 1})"
        )
    return Block(token_B, start_B)
