"""BART's denoising: the text comes back, sentences stay whole, spans are Poisson and of words."""

import math

import numpy as np
import pytest

from jaxllm.data.batch import Window
from jaxllm.data.config import DenoisingConfig
from jaxllm.data.objectives import denoising
from jaxllm.data.tokenizers.char import CharTokenizer

from .noise import BOS, EOS, MASK, make, rows, within


def body(row, encoder=True):
    ids, segments = (
        (row.encoder_inputs, row.encoder_segment_ids) if encoder else (row.targets, row.segment_ids)
    )
    return ids[segments > 0].tolist()


def test_the_target_of_denoising_is_the_text():
    for piece, row in rows(make("denoising", 256), 60):
        text = [BOS, *piece.tokens.tolist()]
        assert body(row, encoder=False) == text + [EOS] * (text[-1] != EOS)
        source = body(row)
        assert source[0] == BOS and source[-1] == EOS
        # ends of documents stay, and in their places among the documents
        assert source.count(EOS) == body(row, encoder=False).count(EOS)


def test_permutation_keeps_sentences_and_documents():
    options = DenoisingConfig(density=0.0)
    moved = 0
    for piece, row in rows(make("denoising", 400, denoising=options), 60):
        ours, theirs = (bytes(t if t < 256 else 0 for t in body(row, side)) for side in (1, 0))
        for a, b in zip(ours.split(b"\0"), theirs.split(b"\0"), strict=True):  # by document
            parts = [sorted(x.replace(b".", b".\n").split(b"\n")) for x in (a, b)]
            if piece.tokens[-1] == EOS or b != theirs.split(b"\0")[-2]:
                assert parts[0] == parts[1]
            assert sorted(a) == sorted(b)
            moved += a != b
    assert moved > 60


def test_every_order_of_sentences_is_equally_likely():
    ends = np.array([0, 1, 0, 1, 1, 0, 1, 0, 1], bool)  # "a.", "b..", "c.", then "d." elsewhere
    begins = np.array([1, 0, 0, 0, 0, 0, 0, 1, 0], bool)
    rng, seen = np.random.default_rng(0), {}
    for _ in range(6000):
        order, sentences_ = denoising.permutation(ends, begins, rng)
        assert np.flatnonzero(sentences_).tolist() == [0, 2, 5, 7]
        assert order[-2:].tolist() == [7, 8]
        seen[tuple(order)] = seen.get(tuple(order), 0) + 1
    assert len(seen) == 6 and (0, 1, 2, 3, 4, 5, 6, 7, 8) in seen
    assert all(within(count, 6000, 1 / 6, sigmas=4) for count in seen.values())


def test_span_lengths_are_poisson_up_to_the_budget():
    rng, lengths = np.random.default_rng(0), []
    for _ in range(300):
        found = denoising.span_lengths(300, 3.0, rng)
        assert found.sum() == 300 and found[-1] > 0
        lengths += found[:-1].tolist()  # the last is cut
    total = len(lengths)
    assert total > 25_000
    for k in range(10):
        p = math.exp(-3) * 3**k / math.factorial(k)
        assert within(lengths.count(k), total, p, sigmas=4), k
    assert denoising.span_lengths(0, 3.0, rng).size == 0
    assert denoising.span_lengths(1, 3.0, rng).sum() == 1


def test_infilling_masks_its_share_of_words():
    """Without overlaps and document ends 30 % of the words would go; some spans meet others."""
    options = DenoisingConfig(permute_sentences=False)
    objective = make("denoising", 2000, denoising=options)
    words = masks = left = 0
    for piece, row in rows(objective, 100, documents=False):
        words += 1 + int((piece.tokens[1:] == ord(" ")).sum())
        source = body(row)
        masks += source.count(MASK)
        left += source.count(ord(" "))
    assert 0.2 < 1 - left / words < 0.3
    # a span has 3 / (1 - e^-3) words on average and one in e^3 is an insertion; overlaps merge
    assert 0.07 < masks / words < 0.1


def test_infilling_replaces_whole_words_and_stays_in_its_document():
    """Of words that are all different: what is left is whole, in order, in its document."""
    options = DenoisingConfig(permute_sentences=False)
    objective = make("denoising", 512, denoising=options)
    texts = [" ".join(f"{10 * d + w:03d}" for w in range(10)) for d in range(12)]
    tokens = np.array([t for text in texts for t in [*text.encode(), EOS]], np.int32)
    starts = np.r_[True, tokens[:-1] == EOS]
    for seed in range(80):
        row = objective.example(Window(tokens, starts), np.random.default_rng(seed))
        documents = _split(body(row)[1:-1], EOS)
        assert len(documents) == len(texts)
        for number, ids in enumerate(documents):
            # an inserted mask may stand inside a word, as in fairseq
            left = bytes(t for t in ids if t != MASK).decode().split()
            assert left == sorted(left) and len(set(left)) == len(left)
            assert set(left) <= set(texts[number].split())
            masks = ids.count(MASK)
            assert masks or left == texts[number].split()


def _split(ids, separator):
    parts = [[]]
    for token in ids:
        if token == separator:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


@pytest.mark.parametrize("options", [
    DenoisingConfig(0.99, 1.0), DenoisingConfig(0.99, 1.0, whole_word=False),
    DenoisingConfig(0.5, 1.0, False, False), DenoisingConfig(0.01, 90.0),
])
def test_extreme_denoising_fits_its_row(options):
    for length in (3, 4, 9, 40):
        objective = make("denoising", length, denoising=options)
        for piece, row in rows(objective, 60):
            assert body(row)[0] == BOS and body(row)[-1] == EOS
            assert body(row, encoder=False)[1 : 1 + len(piece.tokens)] == piece.tokens.tolist()


def test_words_are_tokens_where_the_tokenizer_knows_none():
    tokenizer = CharTokenizer(".abcdefg", True, mask=True)
    objective = make("denoising", 200, tokenizer, start=8)
    rng = np.random.default_rng(0)
    piece = Window(rng.integers(0, 8, objective.raw_length).astype(np.int32),
                   np.zeros(objective.raw_length, bool))
    source = body(objective.example(piece, rng))
    assert source.count(tokenizer.mask_id) > 5 and 130 < len(source) < 199
