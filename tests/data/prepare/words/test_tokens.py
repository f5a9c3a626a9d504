"""The table of tokens: the arrays against plain Python, whatever was seen before."""

import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data.prepare.words import tokens as words
from jaxllm.data.prepare.words.chunks import SYMBOLS, split_chunk
from jaxllm.data.prepare.words.tokens import Tokens, sentences

TEXTS = st.lists(st.sampled_from(["the", "cat", "don't", "U.S.", "(a)", "...", "9", "é!"]))


def plain(chunks):
    return [token for chunk in chunks for token in split_chunk(chunk)]


@given(TEXTS)
def test_columns_are_those_of_the_tokens(chunks):
    expected, tokens = plain(chunks), Tokens(chunks)
    assert len(tokens) == len(expected)
    assert tokens.lengths.tolist() == [len(token) for token in expected]
    assert tokens.letters.tolist() == [any(map(str.isalpha, token)) for token in expected]
    assert tokens.spoken.tolist() == [not set(token) <= SYMBOLS for token in expected]
    assert tokens.distinct(frozenset(["the", "cat", "absent"])) == len({"the", "cat"} & {*expected})


@given(TEXTS.filter(lambda chunks: len(chunks) > 3), st.integers(1, 4), st.integers(1, 3))
def test_keys_tell_the_same_n_grams_apart_as_tuples_do(chunks, n, times):
    expected, tokens = plain(chunks), Tokens(chunks)
    grams = [tuple(expected[i: i + n]) for i in range(len(expected) - n + 1)]
    keys = tokens.keys(n).tolist()
    assert len(keys) == len(grams)
    assert len(set(keys)) == len(set(grams)) == len(set(zip(keys, grams, strict=True)))
    widths = [sum(map(len, gram)) for gram in grams]
    assert tokens.widths(n).tolist() == widths
    assert (tokens.repeats(n, times) > 0) == (max(Counter(grams).values()) > times)


def test_a_full_table_is_replaced_and_changes_no_result(monkeypatch):
    text = ["one", "two", "three", "two", "one", "two"]
    before = Tokens(text)
    monkeypatch.setattr(words, "TABLE_ENTRIES", 0)
    after = Tokens(text)
    assert after.lengths.tolist() == before.lengths.tolist()
    assert after.repeats(1) == before.repeats(1) == 3
    monkeypatch.undo()
    assert np.array_equal(before.keys(2) == before.keys(2)[0], after.keys(2) == after.keys(2)[0])


def test_long_chunks_are_not_remembered_and_the_table_grows():
    table = words.Table()
    assert table["x" * 5000] == table["x" * 5000]
    assert "x" * 5000 not in dict(table)
    for number in range(5000):
        table[f"w{number}"]
    assert table.columns["length"][table.number("w4999")] == 5


def test_each_thread_has_its_own_table():
    found = []
    thread = threading.Thread(target=lambda: found.append(words.table()))
    thread.start()
    thread.join()
    assert found[0] is not words.table()


@pytest.mark.parametrize(("text", "count"), [  # as spaCy's sentencizer counts
    ("One. Two! Three?", 3), ("Mr. Smith went to the U.S. in 1999.", 1),
    ("He paid 3.5. Then he left.", 2), ('"Stop!" he said. "Now."', 3),
    ("Wait... what? No...", 2), ("no end", 1), ("", 1), ("?!? !", 1),
])
def test_sentences(text, count):
    assert sentences(text, 99) == count


def test_sentences_over_slices():
    assert sentences("One two. " * 500, 10**6) == 500
    assert sentences("One two. " * 500, 3) >= 3
