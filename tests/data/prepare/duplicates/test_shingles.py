"""Shingles: the same hash where plain Python sees the same words, and nowhere else."""

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data.prepare.duplicates import shingles as module
from jaxllm.data.prepare.duplicates.shingles import shingles

from .near_reference import statements

PARTS = "aAbBzéÉßж9क\u093f"  # a vowel sign belongs to its word
ALONE = "中文ひกက"
BETWEEN = " .,-_—’\n\t😀\u200d\ud800\ufe0f"
TEXTS = st.lists(st.text(PARTS + ALONE + BETWEEN, max_size=40), max_size=6)


def plain_words(text):
    words, word = [], ""
    for character in [*text, " "]:
        if character in PARTS:
            word += character.lower()
            continue
        words += [word] * bool(word)
        word = ""
        words += [character] * (character in ALONE)
    return words


def plain_shingles(words, n):
    if not words:
        return []
    return [tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))]


@given(TEXTS, st.integers(1, 6))
def test_they_are_the_runs_of_words_that_plain_python_finds(texts, n):
    expected = [plain_shingles(plain_words(text), n) for text in texts]
    hashes, counts = shingles(texts, n)
    assert counts.tolist() == [len(runs) for runs in expected]
    flat = [run for runs in expected for run in runs]
    pairs = set(zip(flat, hashes.tolist(), strict=True))
    assert len(pairs) == len(set(flat)) == len(set(hashes.tolist()))  # one to one


@given(TEXTS)
def test_a_text_has_the_same_shingles_alone_and_among_others(texts):
    hashes, _ = shingles(texts, 5)
    alone = [shingles([text], 5)[0] for text in texts]
    np.testing.assert_array_equal(hashes, np.concatenate([np.zeros(0, np.uint64), *alone]))


@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=60),
       st.integers(6, 30))
def test_long_texts_are_hashed_in_pieces_with_the_same_result(words, size):
    text = " ".join(words)
    whole = shingles([text, "c"], 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", size)
        pieces = shingles([text, "c"], 3)
    np.testing.assert_array_equal(whole[0], pieces[0])
    np.testing.assert_array_equal(whole[1], pieces[1])


@pytest.mark.parametrize("text", ["x" * 300_000, "中" * 200_000, "a b\n" * 60_000, "\0" * 100_000])
def test_a_text_of_any_length_is_cut_by_itself_alone(text):
    alone, count = shingles([text], 5)
    among, counts = shingles(["before that", text, "after"], 5)
    np.testing.assert_array_equal(among[1:-1], alone)
    assert counts.tolist() == [1, count[0], 1]


def test_case_punctuation_and_dashes_do_not_count():
    left, _ = shingles(["The law -- as amended -- applies, from 5 May."], 5)
    right, _ = shingles(["the LAW – as amended — applies: from “5 May”"], 5)
    np.testing.assert_array_equal(left, right)


def test_words_of_english_text_are_those_of_a_regular_expression():
    for text in statements()[:10]:
        words = re.findall(r"[^\W_]+", text.lower())
        assert shingles([text], 1)[1][0] == len(words)
        assert len(np.unique(shingles([text], 1)[0])) == len(set(words))


def test_the_classes_of_characters_are_those_of_their_categories():
    classes = module._tables()[0]
    for code in [*range(0x250), *range(0x370, 0xE00)]:
        category = unicodedata.ucd_3_2_0.category(chr(code))
        assert (classes[code] != module.BETWEEN) == (category[0] in "LMN" or category == "Cn")


def test_hashes_are_the_same_on_every_machine():
    found, _ = shingles(["The quick brown fox jumps over Ärger und 中文"], 5)
    assert [f"{value:016x}" for value in found.tolist()] == GOLDEN


GOLDEN = [
    "194a4d344915edba", "0255ff0cf2dd4870", "004d291f2c163030",
    "c0e8086c2bc39b40", "3f8eb7a6a44f590a", "9d8e5fba3b9f17b4",
]
