"""Windows of the token stream as a Grain MapDataset: window i of every epoch, from i alone."""

from __future__ import annotations

import functools

import grain
import numpy as np

from jaxllm.data.batch import Window
from jaxllm.data.sources import TokenSource


class Windows(grain.MapDataset):
    """An epoch of windows, a stride apart; index divmod length is (epoch, window).

    Epoch 0 begins at the first token. Every later epoch is shifted by less than a stride, drawn
    from the seed and the epoch, so that documents are cut at other places. The stream is a ring:
    a window that runs over the end goes on at the beginning, where a document begins.
    """

    def __init__(self, source: TokenSource, raw_length: int, overlap: int, seed: int):
        """Windows of `raw_length` tokens that share `overlap` tokens with the next one."""
        super().__init__()
        self._source, self._raw_length, self._seed = source, raw_length, seed
        self._stride = raw_length - overlap
        self._length = (source.num_tokens - overlap) // self._stride

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        epoch, place = divmod(index, self._length)
        start = place * self._stride + epoch_shift(self._seed, epoch, self._stride)
        return ring_slice(self._source, start % self._source.num_tokens, self._raw_length)


@functools.lru_cache(1024)
def epoch_shift(seed: int, epoch: int, stride: int) -> int:
    """Tokens that the windows of an epoch are shifted by, in [0, stride)."""
    return 0 if epoch == 0 else int(np.random.default_rng((seed, epoch)).integers(stride))


def ring_slice(source: TokenSource, start: int, length: int) -> Window:
    """`length` tokens from `start` on, continued at the beginning of the stream."""
    stop = start + length
    if stop <= source.num_tokens:
        return Window(*source.slice(start, stop))
    parts = (source.slice(start, source.num_tokens), source.slice(0, stop - source.num_tokens))
    return Window(*(np.concatenate(part) for part in zip(*parts, strict=True)))
