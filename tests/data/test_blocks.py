"""The block format: whatever is written comes back, and whatever is damaged is refused."""

import numpy as np
import pytest

from jaxllm.data import blocks
from jaxllm.data.blocks import BadBlock, Block


def random_block(rng, vocab_size):
    count = int(rng.integers(1, 300))
    starts = np.flatnonzero(rng.random(count) < rng.choice([0, 0.1, 1]))
    return Block(rng.integers(0, vocab_size, count), starts)


@pytest.mark.parametrize("vocab_size, width", [(2, 2), (65_536, 2), (65_537, 4), (250_000, 4)])
def test_round_trip(vocab_size, width):
    rng = np.random.default_rng(vocab_size)
    dtype = blocks.token_dtype(vocab_size)
    assert dtype.itemsize == width
    for _ in range(100):
        block = random_block(rng, vocab_size)
        record = blocks.encode(block, dtype)
        assert len(record) == 16 + 4 * len(block.starts) + width * len(block.tokens)
        again = blocks.decode(record, vocab_size)
        np.testing.assert_array_equal(again.tokens, block.tokens)
        np.testing.assert_array_equal(again.starts, block.starts)


def test_ids_beyond_the_vocabulary_are_refused():
    record = blocks.encode(Block(np.array([1, 70, 3]), np.array([0])), blocks.token_dtype(100))
    blocks.decode(record, 71)
    with pytest.raises(BadBlock, match=r"id 70 is beyond the vocabulary of 70 \(ids 0 to 69\)"):
        blocks.decode(record, 70)


def test_damage_is_refused():
    dtype = blocks.token_dtype(100)
    record = blocks.encode(Block(np.arange(20), np.array([0, 7])), dtype)
    for bad in (b"", record[:10], record[:-1], record + b"\0", b"XXXX" + record[4:]):
        with pytest.raises(BadBlock):
            blocks.decode(bad, 100)
    for starts in ([7, 0], [3, 3], [20]):
        with pytest.raises(BadBlock, match=r"ascending"):
            blocks.decode(blocks.encode(Block(np.arange(20), np.array(starts)), dtype), 100)
