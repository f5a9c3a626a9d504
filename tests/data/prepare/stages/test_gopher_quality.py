"""Gopher's quality rules, each at its edge (Rae et al. 2021, A.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.stages.base import Dropped, Kept, View
from jaxllm.data.prepare.stages.gopher_quality import Settings, check, make

from ..steps import HOSTILE, grows_linearly

OFF = Settings(
    min_words=0, max_words=0, min_word_length=0, max_word_length=0, max_symbols_per_word=0,
    max_bullet_lines=0, max_ellipsis_lines=0, min_alphabetic_words=0, min_stop_words=0,
)


def decide(text: str, **rules) -> str:
    settings = Settings(**{**vars(OFF), **rules})
    check(settings)
    outcome = make(settings)(View(text))
    return outcome.reason if isinstance(outcome, Dropped) else "kept"


@pytest.mark.parametrize(("text", "rules", "reason"), [
    ("word " * 50 + ". , !", {"min_words": 50}, "kept"),  # punctuation does not count
    ("word " * 49 + ". , !", {"min_words": 50}, "short_doc"),
    ("word " * 10, {"max_words": 10}, "kept"),
    ("word " * 11, {"max_words": 10}, "long_doc"),
    ("abc abc .", {"min_word_length": 3}, "kept"),
    ("abc ab", {"min_word_length": 3}, "below_avg_threshold"),
    ("abcdefghij", {"max_word_length": 10}, "kept"),
    ("abcdefghij abcdefghijk", {"max_word_length": 10}, "above_avg_threshold"),
    ("a b c d e f g h i #", {"max_symbols_per_word": 0.1}, "kept"),  # 1 of 10
    ("a b c d e f g h #", {"max_symbols_per_word": 0.1}, "too_many_hashes"),
    ("a b c d e f g h i ...", {"max_symbols_per_word": 0.1}, "kept"),
    ("a b c d e f g h …", {"max_symbols_per_word": 0.1}, "too_many_ellipsis"),
    ("- a\n" * 9 + "a", {"max_bullet_lines": 0.9}, "kept"),
    (" • a\n- a\n" * 5 + "\x0c-", {"max_bullet_lines": 0.9}, "too_many_bullets"),
    ("a - b - c - d\n" * 5, {"max_bullet_lines": 0.9}, "kept"),  # dashes that begin no line
    ("a...\n" * 3 + "a\n" * 7, {"max_ellipsis_lines": 0.3}, "kept"),
    ("a… \n" * 4 + "a\n" * 7, {"max_ellipsis_lines": 0.3}, "too_many_end_ellipsis"),
    ("a b c d 1", {"min_alphabetic_words": 0.8}, "kept"),
    ("a b c d 1 2", {"min_alphabetic_words": 0.8}, "below_alpha_threshold"),
    ("the cat with a hat", {"min_stop_words": 2}, "kept"),
    ("the cat the hat", {"min_stop_words": 2}, "too_few_stop_words"),  # different ones
    ("The cat With a hat", {"min_stop_words": 2}, "too_few_stop_words"),  # case counts
    ("na mtu wa pwani", {"min_stop_words": 2, "stop_words": ("na", "wa", "ya")}, "kept"),
])
def test_rule_at_its_edge(text, rules, reason):
    assert decide(text, **rules) == reason


@given(st.text(max_size=300))
def test_any_text_is_decided_and_none_is_changed(text):
    for settings in (Settings(), OFF):
        outcome = make(settings)(View(text))
        assert isinstance(outcome, Dropped) or outcome == Kept(text)


def test_ordinary_english_is_kept():
    text = "The committee said that it would have to be patient with the course of inflation. " * 8
    assert make(Settings())(View(text)) == Kept(text)


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear(piece):
    stage = make(Settings(min_words=0))
    assert grows_linearly(lambda n: stage(View((piece * n)[:n])), 3000)


@pytest.mark.parametrize(("changes", "named"), [
    ({"max_bullet_lines": 1.5}, "gopher_quality.max_bullet_lines=1.5"),
    ({"min_words": -1}, "gopher_quality.min_words=-1"),
    ({"max_symbols_per_word": float("nan")}, "gopher_quality.max_symbols_per_word=nan"),
    ({"min_words": 200_000}, "gopher_quality.min_words=200000 is above"),
    ({"stop_words": ("the",)}, "gopher_quality.min_stop_words=2 of the 1"),
])
def test_settings_out_of_range(changes, named):
    with pytest.raises(UserError, match=named.replace("(", r"\(")) as error:
        check(Settings(**changes))
    assert "--config.gopher_quality" in str(error.value) or "Lower" in str(error.value)
