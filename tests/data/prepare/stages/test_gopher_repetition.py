"""Gopher's repetition rules, each at its edge, and against the rules written out plainly."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.stages.base import Dropped, Kept, View
from jaxllm.data.prepare.stages.gopher_repetition import Settings, check, make
from jaxllm.data.prepare.words.chunks import split_chunk

from ..steps import HOSTILE, grows_linearly

OFF = Settings(
    max_duplicate_paragraphs=0, max_duplicate_paragraph_characters=0, max_duplicate_lines=0,
    max_duplicate_line_characters=0, top_sizes=(), max_top=(), repeated_sizes=(), max_repeated=(),
)


def decide(text: str, **rules) -> str:
    outcome = make(Settings(**{**vars(OFF), **rules}))(View(text))
    return outcome.reason if isinstance(outcome, Dropped) else "kept"


def plainly(text: str, given: Settings) -> str:
    """The rules of table A1, one after another, as the paper puts them."""
    if not text:
        return "empty"
    for parts, name, count_limit, size_limit in (
        (re.split(r"\n{2,}", text.strip()), "para", given.max_duplicate_paragraphs,
         given.max_duplicate_paragraph_characters),
        (re.split(r"\n+", text), "line", given.max_duplicate_lines,
         given.max_duplicate_line_characters),
    ):
        again = [part for place, part in enumerate(parts) if part in parts[:place]]
        if count_limit and len(again) / len(parts) > count_limit:
            return f"dup_{name}_frac"
        if size_limit and sum(map(len, again)) / len(text) > size_limit:
            return f"dup_{name}_char_frac"
    words = [token for chunk in text.split() for token in split_chunk(chunk)]
    for n, most in zip(given.top_sizes, given.max_top, strict=True):
        grams = Counter(" ".join(words[i: i + n]) for i in range(len(words) - n + 1))
        if grams:
            gram, count = grams.most_common(1)[0]
            if len(gram) * count / len(text) > most:
                return f"top_{n}_gram"
    for n, most in zip(given.repeated_sizes, given.max_repeated, strict=True):
        seen, place, size = set(), 0, 0
        while place <= len(words) - n:
            gram = tuple(words[place: place + n])
            size += (gram in seen) * sum(map(len, gram))
            place += n if gram in seen else 1
            seen.add(gram)
        if size / len(text) > most:
            return f"duplicated_{n}_n_grams"
    return "kept"


@pytest.mark.parametrize(("text", "rules", "reason"), [
    ("", {}, "empty"),
    ("a\n\nb\n\nc\n\na", {"max_duplicate_paragraphs": 0.25}, "kept"),
    ("a\n\nb\n\na", {"max_duplicate_paragraphs": 0.3}, "dup_para_frac"),
    ("aaaa\n\nbb\n\naaaa", {"max_duplicate_paragraph_characters": 4 / 14}, "kept"),
    ("aaaa\n\nb\n\naaaa", {"max_duplicate_paragraph_characters": 4 / 14}, "dup_para_char_frac"),
    ("a\nb\nc\na", {"max_duplicate_lines": 0.25}, "kept"),
    ("a\nb\n\na", {"max_duplicate_lines": 0.3}, "dup_line_frac"),
    ("aaaa\nbbbb\naaaa\ncccccc", {"max_duplicate_line_characters": 4 / 21}, "kept"),
    ("aaaa\nbbbb\naaaa\nccccc", {"max_duplicate_line_characters": 4 / 21}, "dup_line_char_frac"),
    ("ab cd ef ab cd x", {"top_sizes": (2,), "max_top": (10 / 16,)}, "kept"),
    ("ab cd ef ab cd", {"top_sizes": (2,), "max_top": (10 / 16,)}, "top_2_gram"),
    ("ab cd", {"top_sizes": (3,), "max_top": (0.1,)}, "kept"),  # too few words
    ("a b c d e a b c d e", {"repeated_sizes": (5,), "max_repeated": (5 / 19,)}, "kept"),
    ("a b c d e a b c d e", {"repeated_sizes": (5,), "max_repeated": (4 / 19,)},
     "duplicated_5_n_grams"),
])
def test_rule_at_its_edge(text, rules, reason):
    assert decide(text, **rules) == reason


TEXTS = st.lists(
    st.sampled_from(["a", "the", "cat", "sat.", "mat", "\n", "\n\n", "don't", " "]), max_size=60
).map(" ".join)
LIMITS = st.sampled_from([0.02, 0.05, 0.1, 0.2, 0.4])


@settings(max_examples=300)
@given(TEXTS, LIMITS, LIMITS)
def test_decisions_and_reasons_are_those_of_the_plain_rules(text, top, repeated):
    given_settings = Settings(
        max_top=(top, top / 2, 0.16), repeated_sizes=(3, 5, 4), max_repeated=(repeated, 0.1, 0.05)
    )
    for one in (given_settings, Settings()):
        outcome = make(one)(View(text))
        found = outcome.reason if isinstance(outcome, Dropped) else "kept"
        assert found == plainly(text, one)


@given(st.text(max_size=300))
def test_any_text_is_decided_and_none_is_changed(text):
    outcome = make(Settings())(View(text))
    assert isinstance(outcome, Dropped) or outcome == Kept(text)


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear(piece):
    stage = make(Settings(
        max_duplicate_paragraphs=0, max_duplicate_paragraph_characters=0, max_duplicate_lines=0,
        max_duplicate_line_characters=0, max_top=(1.0, 1.0, 1.0), max_repeated=(0.9,) * 6,
    ))
    assert grows_linearly(lambda n: stage(View((piece * n)[:n])), 3000)


@pytest.mark.parametrize(("changes", "named"), [
    ({"max_duplicate_lines": -0.1}, "gopher_repetition.max_duplicate_lines=-0.1"),
    ({"top_sizes": (2, 3)}, "gopher_repetition.max_top"),
    ({"repeated_sizes": (0, 6, 7, 8, 9, 10)}, "gopher_repetition.repeated_sizes"),
    ({"max_top": (2.0, 0.1, 0.1)}, "gopher_repetition.max_top"),
])
def test_settings_out_of_range(changes, named):
    with pytest.raises(UserError, match=named) as error:
        check(Settings(**changes))
    assert "The default is --config.gopher_repetition." in str(error.value)
