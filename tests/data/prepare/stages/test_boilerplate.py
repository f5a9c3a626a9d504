"""Boilerplate: Project Gutenberg's frame and notices go, everything else stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.stages import boilerplate
from jaxllm.data.prepare.stages.base import Dropped, Kept, View
from jaxllm.data.prepare.stages.boilerplate import Settings, check, make

from ..steps import HOSTILE, grows_linearly, loops_in_loops

HEADER = "\ufeffThe Project Gutenberg EBook of Tales\n\nTitle: Tales\n\n"
START = "*** START OF THIS PROJECT GUTENBERG EBOOK TALES ***\n"
NEW_START = "***START OF THE PROJECT GUTENBERG EBOOK TALES***\n"
OLD_START = "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n"
CREDIT = "\n\nProduced by A. Person and the\nOnline Team at http://example.org\n\n\n"
BOOK = "Once upon a time\n\nProduced by magic, it ended."
END = "\n\nEnd of the Project Gutenberg EBook of Tales\n\n"
STARRED = "\n*** END OF THIS PROJECT GUTENBERG EBOOK TALES ***\n"
LICENCE = "\nSection 1. General Terms of Use\nProject Gutenberg-tm works\n"


def outcome(text: str, **settings):
    return make(Settings(**settings))(View(text))


@pytest.mark.parametrize("start", [START, NEW_START, OLD_START])
@pytest.mark.parametrize("end", [END + STARRED, STARRED, END])
def test_gutenbergs_frame_goes(start, end):
    found = outcome(HEADER + start + CREDIT + BOOK + end + LICENCE)
    assert found == Kept(BOOK, {"gutenberg_header": 1, "gutenberg_licence": 1})


def test_half_a_frame_goes_and_a_mention_stays():
    assert outcome(BOOK + STARRED + LICENCE).text == BOOK
    assert outcome(HEADER + START + BOOK).text == BOOK
    mention = "I read it at Project Gutenberg.\nEnd of the Project Gutenberg visit."
    assert outcome(mention) == Kept(mention)


def test_each_book_of_several_loses_its_own():
    one = HEADER + START + BOOK + STARRED + LICENCE
    assert outcome(one + one).text == f"{BOOK}\n\n{BOOK}"


def test_what_is_longer_than_a_header_is_none():
    long = "a line of a book\n" * 1000
    assert outcome(HEADER + START + long + HEADER + START + BOOK).text.startswith(long)
    assert outcome(long + START + BOOK).text.startswith(long)


def test_frame_stays_when_switched_off():
    text = HEADER + START + BOOK
    assert outcome(text, gutenberg=False) == Kept(text)


@pytest.mark.parametrize("line", [
    "We use cookies to improve your visit.", "ACCEPT ALL COOKIES", "Privacy Policy | Terms of Use",
    "Diese Website verwendet Cookies.", "Ce site utilise des cookies.", "Política de privacidad",
])
def test_notice_goes(line):
    assert outcome(f"One.\n{line}\nTwo.") == Kept("One.\nTwo.", {"notice": 1})
    assert outcome(f"One.\n{line}\nTwo.", notices=False) == Kept(f"One.\n{line}\nTwo.")
    assert outcome(line) == Dropped("only_boilerplate")


def test_long_line_is_a_paragraph_and_stays():
    at_most = "we use cookies " + "x" * 225
    assert outcome(f"One.\n{at_most}").text == "One."
    assert outcome(f"One.\n{at_most}x") == Kept(f"One.\n{at_most}x")
    baking = "She bakes cookies, and the policy of the house is that nobody leaves without one."
    assert outcome(baking) == Kept(baking)


def test_phrases_are_a_setting():
    assert outcome("A.\nWir Kekse!", phrases=("WIR KEKSE",)) == Kept("A.", {"notice": 1})


@given(st.lists(st.sampled_from(
    [HEADER, START, CREDIT, BOOK, END, STARRED, LICENCE, "we use cookies\n", "\n", "x"]
)).map("".join))
def test_once_is_enough_and_nothing_is_invented(text):
    found = outcome(text)
    if isinstance(found, Kept):
        assert set(found.text.split("\n")) <= {*text.split("\n"), ""}
        again = outcome(found.text)
        assert "gutenberg_header" not in getattr(again, "changes", {})


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear(piece):
    stage = make(Settings())
    assert grows_linearly(lambda n: stage(View("Gutenberg cookies\n" + (piece * n)[:n])), 3000)
    assert grows_linearly(lambda n: stage(View((f"gutenberg {piece}\n" * n)[:n])), 3000)


def test_no_pattern_has_a_loop_in_a_loop():
    patterns = (boilerplate.START, boilerplate.END, boilerplate.CREDIT)
    assert not any(map(loops_in_loops, patterns))


def test_settings_out_of_range():
    with pytest.raises(UserError, match=r"boilerplate\.max_notice=0 .* at least 1"):
        check(Settings(max_notice=0))
    with pytest.raises(UserError, match=r"boilerplate\.phrases"):
        check(Settings(phrases=("",)))
