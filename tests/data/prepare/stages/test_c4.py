"""C4's rules, each at its edge (Raffel et al. 2020, 2.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.stages import c4
from jaxllm.data.prepare.stages.base import Dropped, Kept, View
from jaxllm.data.prepare.stages.c4 import Settings, check, make

from ..steps import HOSTILE, grows_linearly, loops_in_loops

GOOD = "This is one sentence."


def outcome(*lines: str, **rules):
    return make(Settings(**{"min_sentences": 0, **rules}))(View("\n".join(lines)))


@pytest.mark.parametrize(("line", "rules", "change"), [
    ("A line without an end", {}, "line_no_terminal_punc"),
    ("A line that trails off...", {}, "line_no_terminal_punc"),
    ("A line that trails off…", {}, "line_no_terminal_punc"),
    ("Two words.", {}, "line_too_few_words"),
    ("It mentions JavaScript here.", {}, "line_javascript"),
    ("We promise to Use Cookies here.", {}, "line_policy"),
    ("Read our Terms of Use now.", {}, "line_policy"),
    ("A line with " + "x" * 1001 + " it.", {}, "line_too_long_word"),
    ("These are unsere Bedingungen hier.", {"policy": ("UNSERE BEDINGUNGEN",)}, "line_policy"),
])
def test_line_is_removed(line, rules, change):
    assert outcome(GOOD, line, GOOD, **rules) == Kept(f"{GOOD}\n{GOOD}", {change: 1})


@pytest.mark.parametrize("line", [
    "Is it kept?", "It is kept!", 'He said: "it is kept"', "He said: 'it is kept'",
    "A line with " + "x" * 1000 + " it.", "Three words here.",
])
def test_line_stays(line):
    assert outcome(line) == Kept(line)


def test_citations_go_and_count_as_words_and_lines_are_stripped():
    found = outcome("  It is so.[1][citation needed]  ", "It is [2].", "It[edit] is.")
    assert found == Kept("It is so.\nIt is .", {"citation": 3, "line_too_few_words": 1})
    assert outcome("It is so.[1]", citations=False) == Kept("", {"line_no_terminal_punc": 1})


@pytest.mark.parametrize(("line", "reason"), [
    ("Here Lorem Ipsum begins.", "lorem_ipsum"), ("The set {x} is.", "curly_bracket"),
])
def test_document_is_dropped_for_a_line_that_would_stay(line, reason):
    assert outcome(GOOD, line) == Dropped(reason)
    assert outcome(GOOD, line[:-1]) == Kept(GOOD, {"line_no_terminal_punc": 1})
    assert isinstance(outcome(GOOD, line, **{reason: False}), Kept)


def test_sentences_of_the_lines_that_stay_are_counted():
    four = "One is here. Two is here! Three is here? Mr. Four is here."
    assert outcome(four, "Five is no sentence", min_sentences=5) == Dropped("too_few_sentences")
    assert outcome(four, "Five is one.", min_sentences=5) == Kept(f"{four}\nFive is one.")
    assert outcome("", min_sentences=1) == Dropped("too_few_sentences")


@given(st.text(max_size=300))
def test_any_text_is_decided_and_a_second_pass_finds_nothing(text):
    first = make(Settings(min_sentences=0, citations=False))(View(text))
    if isinstance(first, Kept):
        assert make(Settings(min_sentences=0))(View(first.text)).text == first.text or "[" in text


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear(piece):
    stage = make(Settings(min_sentences=10**9))
    assert grows_linearly(lambda n: stage(View((piece * n)[:n])), 3000)
    assert grows_linearly(lambda n: stage(View((f"a b {piece}.\n" * n)[:n])), 3000)


def test_no_pattern_has_a_loop_in_a_loop():
    assert not loops_in_loops(c4.CITATION)


def test_settings_out_of_range():
    with pytest.raises(UserError, match=r"c4\.min_sentences=-1 must be .* at least 0"):
        check(Settings(min_sentences=-1))
