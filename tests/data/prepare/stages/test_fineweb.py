"""FineWeb's own rules, each at its edge (Penedo et al. 2024)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.stages.base import Dropped, Kept, View
from jaxllm.data.prepare.stages.fineweb import Settings, check, make

from ..steps import HOSTILE, grows_linearly

OFF = Settings(
    min_punctuated_lines=0, max_short_lines=1, max_duplicate_characters=1,
    max_newlines_per_word=1000,
)
LONG = "a line of more than thirty characters"


def decide(text: str, **rules) -> str:
    outcome = make(Settings(**{**vars(OFF), **rules}))(View(text))
    return outcome.reason if isinstance(outcome, Dropped) else "kept"


@pytest.mark.parametrize(("text", "rules", "reason"), [
    ("", {}, "empty"),
    (" \n\t\n", {}, "empty"),
    ("a.\nb\n\nc\nd", {"min_punctuated_lines": 0.25}, "kept"),  # blank lines do not count
    ("a.\nb\nc\nd\ne", {"min_punctuated_lines": 0.25}, "line_punct_ratio"),
    ("a. \nb", {"min_punctuated_lines": 0.5}, "line_punct_ratio"),  # the last character is a space
    ("a…\nb", {"min_punctuated_lines": 0.5}, "line_punct_ratio"),
    ("一。\nb", {"min_punctuated_lines": 0.5}, "kept"),
    ("a\nb", {"min_punctuated_lines": 0.5}, "line_punct_ratio"),
    ("a\nb", {"min_punctuated_lines": 0.5, "allow_unpunctuated": True}, "kept"),
    ("a…\nb", {"min_punctuated_lines": 0.5, "end_characters": ("…",)}, "kept"),
    (f"{'x' * 30}\n{LONG}", {"max_short_lines": 0.5}, "kept"),
    (f"{'x' * 30}\n{'y' * 30}\n{LONG}", {"max_short_lines": 0.5}, "short_line_ratio"),
    (f"{'x' * 31}\n{'y' * 30}", {"max_short_lines": 0.5}, "kept"),
    ("ab\nab\n" + "c" * 196, {"max_duplicate_characters": 0.01}, "kept"),  # 2 of 200
    ("ab\nab\n" + "c" * 195, {"max_duplicate_characters": 0.01}, "char_dup_ratio"),
    ("a b c d e f g h i\n\n\nj", {"max_newlines_per_word": 0.3}, "kept"),
    ("a b c d e f g h\n\n\nj", {"max_newlines_per_word": 0.3}, "list_ratio"),
    ("a, b, c, d, e,\n\n\nj", {"max_newlines_per_word": 0.3}, "kept"),  # commas are words here
])
def test_rule_at_its_edge(text, rules, reason):
    assert decide(text, **rules) == reason


@given(st.text(max_size=300))
def test_any_text_is_decided_and_none_is_changed(text):
    outcome = make(Settings())(View(text))
    assert isinstance(outcome, Dropped) or outcome == Kept(text)


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear(piece):
    assert grows_linearly(lambda n: make(OFF)(View((piece * n)[:n])), 3000)


@pytest.mark.parametrize(("changes", "named"), [
    ({"min_punctuated_lines": 12}, "fineweb.min_punctuated_lines=12"),
    ({"short_line": -1}, "fineweb.short_line=-1"),
    ({"end_characters": (".", "...")}, "fineweb.end_characters has '...'"),
])
def test_settings_out_of_range(changes, named):
    with pytest.raises(UserError, match=named):
        check(Settings(**changes))
