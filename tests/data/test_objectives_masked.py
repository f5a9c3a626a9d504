"""Masked language modelling: what is chosen, what is seen instead, and the statistics of both."""

import numpy as np
import pytest

from jaxllm.data.config import MaskedConfig
from jaxllm.data.tokenizers.byte import ByteTokenizer
from jaxllm.data.tokenizers.char import CharTokenizer

from .noise import BOS, EOS, MASK, make, rows, window, within


@pytest.fixture(scope="module", params=[False, True], ids=["tokens", "words"])
def masked_rows(request):
    """About 1e6 tokens."""
    objective = make("masked", 4000, masked=MaskedConfig(whole_word=request.param))
    return request.param, list(rows(objective, 251))


def test_masked_rows_are_the_text_between_cls_and_sep(masked_rows):
    for piece, row in masked_rows[1]:
        text = [BOS, *piece.tokens.tolist()]
        text += [EOS] * (text[-1] != EOS)
        used = int((row.segment_ids > 0).sum())
        assert row.targets[:used].tolist() == text and not row.targets[used:].any()
        begins = np.concatenate([[True], piece.starts])
        begins[1] = False
        segments = np.cumsum(begins)
        np.testing.assert_array_equal(row.segment_ids[: len(segments)], segments)
        np.testing.assert_array_equal(row.positions[:used] == 0, np.r_[begins, [False] * (
            used - len(begins))])
        kept = row.weights == 0
        np.testing.assert_array_equal(row.inputs[kept], row.targets[kept])


def test_masked_share_and_split(masked_rows):
    whole_word, pairs = masked_rows
    inputs, targets, weights, used = (
        np.concatenate(part) for part in zip(*(
            (r.inputs, r.targets, r.weights, r.segment_ids > 0) for _, r in pairs), strict=True)
    )
    ordinary = used & (targets < 256)
    chosen = weights > 0
    assert not (chosen & ~ordinary).any()  # no special token is predicted
    total, count = int(ordinary.sum()), int(chosen.sum())
    assert total > 0.95e6
    if not whole_word:
        assert within(count, total, 0.15)
        for _, row in pairs:
            n = int(((row.targets < 256) & (row.segment_ids > 0)).sum())
            assert abs(row.weights.sum() - 0.15 * n) < 1
    assert abs(count / total - 0.15) < 0.002
    seen, was = inputs[chosen], targets[chosen]
    masked, others = seen == MASK, seen[seen != MASK]
    assert others.max() < 256  # no special token is drawn
    replaced = (~masked & (seen != was)).sum()
    assert within(masked.sum(), count, 0.8)
    assert within(replaced, count, 0.1 * 255 / 256)  # one draw in 256 is the token itself
    assert within((~masked & (seen == was)).sum(), count, 0.1 + 0.1 / 256)
    drawn = np.bincount(seen[~masked & (seen != was)], minlength=256)
    assert (drawn > 0).all() and within(drawn.max(), replaced, 1 / 256, sigmas=6)


def test_whole_words_are_masked_completely(masked_rows):
    whole_word, pairs = masked_rows
    split = 0
    for _, row in pairs[:40]:
        used = int((row.segment_ids > 0).sum())
        word = None
        for place in range(used):
            token, chosen = int(row.targets[place]), bool(row.weights[place])
            before = int(row.targets[place - 1]) if place else EOS
            if token >= 256 or chr(token).isspace() or before >= 256:
                word = chosen
            split += word != chosen
    assert (split == 0) == whole_word


def test_masked_without_frame_and_with_another_separator():
    plain = make("masked", 64, CharTokenizer("".join(map(chr, range(32, 127))), False, mask=True))
    assert plain.raw_length == 64
    tokenizer = ByteTokenizer(mask=True)
    tokenizer.vocab_size, tokenizer.sep_id = 262, 261
    objective = make("masked", 200, tokenizer)
    piece = window(198)
    row = objective.example(piece, np.random.default_rng(0))
    assert EOS not in row.targets and (row.targets == 261).sum() == (piece.tokens == EOS).sum() + 1


def test_masked_rates_of_zero_and_one_for_the_shares():
    piece = window(126)
    for mask_share, random_share in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0)):
        options = MaskedConfig(1.0, mask_share, random_share)
        row = make("masked", masked=options).example(piece, np.random.default_rng(0))
        ordinary = (row.targets < 256) & (row.segment_ids > 0)
        np.testing.assert_array_equal(row.weights > 0, ordinary)
        seen = row.inputs[ordinary]
        assert ((seen == MASK).all(), (seen == row.targets[ordinary]).all()) == (
            mask_share == 1, mask_share == random_share == 0)
