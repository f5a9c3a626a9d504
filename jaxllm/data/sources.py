"""The token stream of a prepared split, readable at any place."""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from array_record.python import array_record_module
from etils import epath

from jaxllm.core.errors import UserError, unknown
from jaxllm.core.paths import path
from jaxllm.data import blocks, tokenizers
from jaxllm.data.manifest import Shard, read_manifest

CACHED_BLOCKS = 512  # decoded, per source: 8 MiB of 16-bit tokens at the default block size


class TokenSource:
    """Random access to the tokens of one split. Safe to use from several threads."""

    def __init__(self, folder: str | os.PathLike, split: str, field: str = ""):
        """Opens nothing yet but the manifest; `field` is named in the errors.

        Raises:
          UserError: no prepared data there, no such split, or a shard is missing or cut short.
        """
        self.folder, self.split, self._field = path(folder), split, field
        self.manifest = read_manifest(folder, field)
        if split not in self.manifest.splits:
            raise unknown(f"the split of {folder}", split, self.manifest.splits)
        entry = self.manifest.splits[split]
        self.num_tokens, self.num_documents, self.num_bytes = (
            entry.tokens, entry.documents, entry.bytes
        )
        self.shards = entry.shards
        self._ends = list(itertools.accumulate(shard.records for shard in self.shards))
        with ThreadPoolExecutor(32) as pool:  # a bucket takes its time to answer
            list(pool.map(self._check_size, self.shards))
        self._readers: dict[int, array_record_module.ArrayRecordReader] = {}
        self._lock = threading.Lock()
        self._block = functools.lru_cache(CACHED_BLOCKS)(self._read_block)

    def __reduce__(self):
        return TokenSource, (self.folder, self.split, self._field)  # readers stay in their process

    @property
    def tokenizer_path(self) -> epath.Path:
        """The folder of the tokenizer that wrote the ids."""
        return self.folder / "tokenizer"

    def load_tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer that wrote the ids.

        Raises:
          UserError: there is none, or it is not the one that manifest.json names.
        """
        tokenizer, wanted = tokenizers.load(self.tokenizer_path), self.manifest.tokenizer
        if tokenizer.hash != wanted.hash:
            raise UserError(
                f"{self.tokenizer_path} is another tokenizer ({tokenizer.kind}, "
                f"{tokenizer.hash[:12]}) than the one that the data was prepared with "
                f"({wanted.kind}, {wanted.hash[:12]}): it was replaced, and the ids would mean "
                "other text. Copy the right one back, or prepare the data again with --overwrite."
            )
        return tokenizer

    def slice(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [n] int32 of the places start … stop - 1, and whether a document begins there [n].

        Raises:
          UserError: a damaged shard, or an id beyond the vocabulary.
        """
        size = self.manifest.block_tokens
        tokens = np.empty(stop - start, np.int32)
        begins = np.zeros(stop - start, bool)
        for index in range(start // size, (stop - 1) // size + 1):
            block = self._block(index)
            offset = index * size
            low, high = max(start - offset, 0), min(stop - offset, size)
            to = offset + low - start
            tokens[to : to + high - low] = block.tokens[low:high]
            first, last = np.searchsorted(block.starts, (low, high))
            begins[block.starts[first:last] + (offset - start)] = True
        return tokens, begins

    def _read_block(self, index: int) -> blocks.Block:
        number = bisect.bisect_right(self._ends, index)
        shard = self.shards[number]
        file = self.folder / shard.name
        try:
            with self._lock:
                if number not in self._readers:
                    self._readers[number] = array_record_module.ArrayRecordReader(os.fspath(file))
                record = index - (self._ends[number] - shard.records)
                found = self._readers[number].read([record])
            if not found:
                raise blocks.BadBlock("the record is missing")
            block = blocks.decode(found[0], self.manifest.tokenizer.vocab_size)
            expected = min(self.manifest.block_tokens,
                           self.num_tokens - index * self.manifest.block_tokens)
            if len(block.tokens) != expected:
                raise blocks.BadBlock(f"it has {len(block.tokens)} tokens instead of {expected}")
        except (RuntimeError, IndexError, blocks.BadBlock) as error:
            raise UserError(
                f"{file} is damaged at record {index}: {str(error)[:200]}. Copy the shard again, "
                "or prepare the data again with --overwrite."
            ) from error
        return block

    def _check_size(self, shard: Shard) -> None:
        file = self.folder / shard.name
        try:
            size = file.stat().length
        except FileNotFoundError as error:
            raise UserError(
                f"{file} is missing: manifest.json lists it. Copy the whole folder, or prepare the "
                "data again."
            ) from error
        if size != shard.bytes:
            raise UserError(
                f"{file} has {size:,} bytes and manifest.json says {shard.bytes:,}: the shard was "
                "cut short or changed. Copy it again, or prepare the data again with --overwrite."
            )
