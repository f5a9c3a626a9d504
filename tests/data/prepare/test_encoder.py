"""The table of words against SentencePiece itself, on text that tries to break it."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.data.prepare import encoder
from jaxllm.data.prepare.encoder import Encoder, merges_words
from jaxllm.data.tokenizers import kind_module
from jaxllm.samples import sample

TEXT = (sample("tinyshakespeare") / "input.txt").read_text()[:200_000]
# Runs of spaces, line ends, what SentencePiece writes for a space, symbols, bytes without a piece.
STRANGE = st.lists(st.sampled_from([
    " ", "  ", "\n", "\t", "\u2581", "\u00a0", "the", "king", "ing", "<|user|>", "<s>", "</s>", "é",
    "漢", "😀", "\u0000", "Romeo", ",", "0", "19", "  \n  ",
]), max_size=30).map("".join)


@functools.cache
def trained(model_type="bpe", symbols=("<|user|>",), spaces=False):
    texts = [TEXT] + ["a    b  c        d\n"] * (500 if spaces else 0)
    return kind_module("sentencepiece").train(
        texts, vocab_size=1000, model_type=model_type, character_coverage=0.9995,
        user_symbols=symbols)


@settings(deadline=None, max_examples=400)
@given(texts=st.lists(st.one_of(STRANGE, st.text(max_size=40)), max_size=4), spaces=st.booleans())
def test_ids_are_those_of_sentencepiece(texts, spaces):
    tokenizer = trained(spaces=spaces)
    assert merges_words(tokenizer)
    found = Encoder(tokenizer, np.dtype("<u2")).encode(texts)
    assert [row.tolist() for row in found] == [tokenizer.encode(text) for text in texts]


def test_a_corpus_with_a_table_that_overflows(monkeypatch):
    monkeypatch.setattr(encoder, "WORDS", 50)
    texts = [TEXT[place : place + 997] for place in range(0, len(TEXT), 997)]
    tokenizer = trained()
    found = Encoder(tokenizer, np.dtype("<u2")).encode(texts)
    assert [row.tolist() for row in found] == tokenizer.encode_batch(texts)


@pytest.mark.parametrize("tokenizer", [
    lambda: trained("unigram"),  # whose sums of scores depend on what comes before
    lambda: trained(symbols=("two words",)),
    lambda: kind_module("byte").ByteTokenizer(),
])
def test_others_are_asked_for_the_whole_text(tokenizer):
    tokenizer = tokenizer()
    assert not merges_words(tokenizer)
    found = Encoder(tokenizer, np.dtype("<u2")).encode(["To be,  two words"])
    assert found[0].tolist() == tokenizer.encode("To be,  two words")
