"""Windows and the causal objective against plain Python; damaged shards are refused."""

import random
import shutil
from collections import Counter

import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.data import windows
from jaxllm.data.batch import Window
from jaxllm.data.manifest import read_manifest
from jaxllm.data.objectives.causal import shifted
from jaxllm.data.sources import TokenSource
from jaxllm.data.windows import Windows

from .reference import causal as reference_causal
from .reference import read_stream


@pytest.fixture(scope="module")
def stream(corpora):
    return read_stream(corpora / "a", "train")


@pytest.fixture(scope="module")
def source(corpora):
    return TokenSource(corpora / "a", "train")


def test_slices_are_those_of_the_stream(source, stream):
    tokens, starts = stream
    assert source.num_tokens == len(tokens) and source.num_documents == sum(starts)
    assert len(source.shards) > 2
    rng = random.Random(0)
    for _ in range(300):
        start = rng.randrange(len(tokens))
        stop = min(len(tokens), start + rng.choice([1, 5, 99, 100, 101, 450]))
        found = source.slice(start, stop)
        assert found[0].tolist() == tokens[start:stop]
        assert found[1].tolist() == starts[start:stop]
    assert source.slice(0, len(tokens))[0].tolist() == tokens


@pytest.mark.parametrize("length", [7, 64, 100, 333])
def test_windows_of_every_epoch_tile_the_stream_as_a_ring(source, stream, length):
    tokens, starts = stream
    data = Windows(source, length + 1, 1, seed=5)
    assert len(data) == (len(tokens) - 1) // length
    for epoch in (0, 1, 2):
        shift = windows.epoch_shift(5, epoch, length)
        assert 0 <= shift < length and (shift == 0) == (epoch == 0 or shift == 0)
        for place in range(len(data)):
            begin = shift + place * length
            window = data[epoch * len(data) + place]
            ring = [(begin + k) % len(tokens) for k in range(length + 1)]
            assert window.tokens.tolist() == [tokens[k] for k in ring]
            assert window.starts.tolist() == [starts[k] for k in ring]


def test_epochs_begin_at_other_places():
    shifts = {windows.epoch_shift(1, epoch, 1024) for epoch in range(1, 20)}
    assert len(shifts) > 15
    assert shifts != {windows.epoch_shift(2, epoch, 1024) for epoch in range(1, 20)}


def test_a_shuffled_epoch_has_every_window_once(source):
    plain = Windows(source, 33, 1, seed=3)
    shuffled = plain.shuffle(seed=3).repeat()
    count = len(plain)
    orders = []
    for epoch in range(3):
        span = range(epoch * count, (epoch + 1) * count)
        expected = [plain[i].tokens.tobytes() for i in span]
        found = [shuffled[i].tokens.tobytes() for i in span]
        assert Counter(found) == Counter(expected) and found != expected
        orders.append([expected.index(window) for window in found])
    assert orders[0] != orders[1]


@pytest.mark.parametrize("seed", range(5))
def test_causal_examples_are_the_reference(seed):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        length = int(rng.integers(1, 40))
        count = int(rng.integers(1, length + 2))
        starts = rng.random(count) < rng.choice([0, 0.2, 1])
        window = Window(rng.integers(0, 99, count).astype(np.int32), starts)
        row = shifted(window, length)
        expected = reference_causal(window.tokens.tolist(), starts.tolist(), length)
        for name, values in expected.items():
            assert getattr(row, name).tolist() == values, name
        assert row.weights.dtype == np.float32
        assert {x.dtype for x in row if x is not None} == {np.dtype("int32"), np.dtype("float32")}


@pytest.fixture
def damaged(corpora, tmp_path):
    """A copy of corpus `a` with its second shard's name."""
    shutil.copytree(corpora / "a", tmp_path / "a")
    return tmp_path / "a", read_manifest(tmp_path / "a").splits["train"].shards[1].name


def test_truncated_and_missing_shards(damaged):
    folder, name = damaged
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1000])
    with pytest.raises(UserError, match=rf"{name} has .* bytes and manifest.json says"):
        TokenSource(folder, "train")
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing"):
        TokenSource(folder, "train")


def test_damaged_bytes_are_found_when_read(damaged):
    folder, name = damaged
    content = bytearray((folder / name).read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(0, 3000, 200):
        content[place] ^= 0xFF
    (folder / name).write_bytes(content)
    source = TokenSource(folder, "train")
    with pytest.raises(UserError, match=rf"{name} is damaged at record"):
        source.slice(0, source.num_tokens)


def test_a_vocabulary_smaller_than_the_ids_is_refused(damaged):
    folder, _ = damaged
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"vocab_size": 259', '"vocab_size": 100'))
    source = TokenSource(folder, "train")
    with pytest.raises(UserError, match=r"beyond the vocabulary of 100"):
        source.slice(0, source.num_tokens)


def test_a_damaged_manifest_is_refused(damaged):
    folder, _ = damaged
    (folder / "manifest.json").write_text('{"version": 1, ')
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        TokenSource(folder, "train")


def test_unknown_split(corpora):
    with pytest.raises(UserError, match=r"Did you mean 'validation'"):
        TokenSource(corpora / "a", "validatoin")
