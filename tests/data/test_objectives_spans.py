"""Span corruption against T5's published procedure, in plain Python, and undone again."""

import math

import numpy as np
import pytest

from jaxllm.data.config import SpanConfig
from jaxllm.data.objectives import spans

from .noise import EOS, MASK, PAD, TOKENIZER, make, window, within


def t5_helper(inputs_length, density, mean):
    """The published random_spans_helper, in plain Python."""
    def of(length):
        noise = round(length * density)
        count = round(noise / mean)
        return length - noise + count + 1, noise + count + 1

    length = inputs_length
    while of(length + 1)[0] <= inputs_length:
        length += 1
    return length, of(length)[1]


def test_t5_arithmetic():
    objective = make("span_corruption", 512)
    assert (objective.raw_length, objective.lengths) == (568, (114, 512))
    for length in (64, 100, 114, 128, 256, 511, 512, 513, 1024, 2048, 4096):
        for density, mean in ((0.15, 3.0), (0.15, 10.0), (0.25, 2.0), (0.1, 5.0), (0.3, 3.0)):
            raw = spans.raw_length(length, density, mean)
            assert (raw, spans.lengths(raw, density, mean)[1]) == t5_helper(length, density, mean)


def t5_mask(length, density, mean, rng):
    """The published random_spans_noise_mask, in plain Python."""
    def segmentation(items, segments):
        first = np.arange(items - 1) < segments - 1
        rng.shuffle(first)
        number = np.cumsum(np.pad(first, [[1, 0]]))
        return [int((number == s).sum()) for s in range(segments)]

    noise = min(max(round(length * density), 1), length - 1)
    count = max(round(noise / mean), 1)
    dropped, kept = segmentation(noise, count), segmentation(length - noise, count)
    return np.array([
        flag for k, d in zip(kept, dropped, strict=True) for flag in [False] * k + [True] * d
    ])


def run_lengths(mask):
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(int), 0]))
    return (edges[1::2] - edges[0::2]).tolist()


def test_masks_are_distributed_as_t5s():
    """The same counts always, and the same share of each span length."""
    ours, theirs = [], []
    for seed in range(400):
        a = spans.noise_mask(568, 0.15, 3.0, np.random.default_rng(seed))
        b = t5_mask(568, 0.15, 3.0, np.random.default_rng(10_000 + seed))
        for mask, lengths in ((a, ours), (b, theirs)):
            assert (len(mask), mask.sum(), not mask[0], mask[-1]) == (568, 85, True, True)
            assert len(run_lengths(mask)) == 28
            lengths += run_lengths(mask)
    total = len(ours)
    for length in range(1, 10):
        # spans of a row add up, so a count varies less than independent ones would
        p = theirs.count(length) / total
        spread = math.sqrt(2 * total * p * (1 - p))
        assert abs(ours.count(length) - theirs.count(length)) < 4 * spread


def test_every_mask_of_a_short_text_is_equally_likely():
    rng, seen = np.random.default_rng(0), {}
    for _ in range(6000):
        key = spans.noise_mask(8, 0.5, 2.0, rng).tobytes()
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 9  # 4 kept tokens in 2 parts, and 4 dropped ones: 3 ways each
    assert all(within(count, 6000, 1 / 9, sigmas=4) for count in seen.values())


@pytest.mark.parametrize(("length", "density", "mean"), [
    (512, 0.15, 3.0), (100, 0.5, 1.0), (64, 0.9, 2.0), (33, 0.05, 8.0), (3, 0.15, 3.0),
    (40, 0.5, 3.0),
])
def test_span_corruption_can_be_undone(length, density, mean):
    objective = make("span_corruption", length, spans=SpanConfig(density, mean))
    target_length, _ = objective.lengths
    for size in {*range(1, 12), objective.raw_length} & set(range(objective.raw_length + 1)):
        for seed in range(20):
            piece = window(size, seed)
            row = objective.example(piece, np.random.default_rng(seed))
            source = row.encoder_inputs[row.encoder_segment_ids > 0].tolist()
            target = row.targets[row.segment_ids > 0].tolist()
            if size == objective.raw_length:
                assert len(source) in (length, length - 1) and len(target) == target_length
            assert source.pop() == EOS and target.pop() == EOS
            found = [t for t in source if t > MASK]
            assert found == [t for t in target if t > MASK]
            assert found == list(TOKENIZER.sentinel_ids[: len(found)])  # descending ids, 0 first
            assert found == sorted(found, reverse=True)
            dropped = {}
            for token in target:
                if token > MASK:
                    dropped[token] = []
                else:
                    dropped[list(dropped)[-1]].append(token)
            assert all(dropped.values())
            restored = [t for token in source for t in dropped.get(token, [token])]
            assert restored == piece.tokens.tolist()


def test_the_decoder_reads_its_start_and_the_target_shifted():
    for name in ("span_corruption", "denoising"):
        for start, expected in ((-1, PAD), (5, 5)):
            objective = make(name, start=start)
            row = objective.example(window(objective.raw_length), np.random.default_rng(0))
            n = int(row.segment_ids.sum())
            assert row.inputs[0] == expected and row.weights.sum() == n
            np.testing.assert_array_equal(row.inputs[1:n], row.targets[: n - 1])
            np.testing.assert_array_equal(row.positions[:n], np.arange(n))
            m = int(row.encoder_segment_ids.sum())
            np.testing.assert_array_equal(row.encoder_positions[:m], np.arange(m))


def test_a_target_length_above_the_needed_is_padding():
    row = make("span_corruption", 512, target_length=128).example(
        window(568), np.random.default_rng(0))
    assert row.targets.shape == (128,) and row.segment_ids.sum() == 114
