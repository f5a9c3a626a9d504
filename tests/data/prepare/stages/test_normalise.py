"""Normalisation: what is repaired, that once is enough, and that nothing raises."""

import unicodedata

import ftfy.bad_codecs  # noqa: F401  the sloppy encodings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.stages import normalise
from jaxllm.data.prepare.stages.base import Kept, View
from jaxllm.data.prepare.stages.normalise import Settings, check, make

from ..steps import HOSTILE, grows_linearly, loops_in_loops

STAGE = make(Settings())


def repaired(text: str) -> str:
    return STAGE(View(text)).text


@pytest.mark.parametrize(("text", "encodings"), [  # what a good reader can tell from one line
    ("It’s déjà vu: naïve “quotes” — really", "sloppy-windows-1252 mac_roman cp437"),
    ("It’s déjà vu — really", "cp1252 sloppy-windows-1251"),
    ("señor, ¿qué pasó?", "latin-1 cp1252 mac_roman cp437"),
    ("Привет, как дела?", "latin-1 sloppy-windows-1252 cp437 sloppy-windows-1251"),
])
def test_mojibake_is_undone(text, encodings):
    for encoding in encodings.split():
        broken = text.encode().decode(encoding)
        assert STAGE(View(f"before\n{broken}\nafter")) == Kept(
            f"before\n{text}\nafter", {"mojibake_line": 1}
        )


@pytest.mark.parametrize("text", [
    "plain", "L’été à la fenêtre", "Привет «мир»", "日本語。", "Zażółć gęślą jaźń", "हिन्दी", "ÅÄÖ",
    "tab\tand\nline feed", "emoji 👩‍👧 stay joined", "", "Ã", "São Paulo",
])
def test_good_text_stays_as_it_is(text):
    assert STAGE(View(text)) == Kept(text)


@pytest.mark.parametrize(("text", "good", "changes"), [
    ("a\r\nb\rc\x0cd\u2028e\x85f", "a\nb\nc\nd\ne\nf", {"line_end": 5}),
    ("a\x00b\x07c\x7fd\ufeffe", "abcde", {"control_character": 4}),
    ("\ud83d\ude00 and \ud800", "😀 and ", {"control_character": 1}),
    ("cafe\u0301", "café", {"recomposed": 1}),
])
def test_what_is_put_right(text, good, changes):
    assert STAGE(View(text)) == Kept(good, changes)


def test_each_repair_can_be_switched_off():
    text = "cafe\u0301\r\nÃ©\x00"
    off = Settings(mojibake=False, line_ends=False, control_characters=False, form="")
    assert make(off)(View(text)) == Kept(text)
    kept = Settings(mojibake=False, line_ends=False, form="")
    assert make(kept)(View(text)).text == "cafe\u0301\r\nÃ©"
    assert make(Settings(form="NFKC"))(View("ﬁve²")).text == "five2"


@given(st.text(st.characters(exclude_categories=()), max_size=60) | st.text(
    "Ãâ€™\x82\x99©é\r\n\x00\u0301\ud83d\ude00Ðа ", max_size=40
))
def test_once_is_enough_and_the_result_is_normal(text):
    once = repaired(text)
    assert repaired(once) == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode()  # no half surrogate pairs
    assert not set("\r\x00\x85\ufeff") & set(once)


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear(piece):
    assert grows_linearly(lambda n: repaired((piece * n)[:n]), 3000)


def test_no_pattern_has_a_loop_in_a_loop():
    patterns = (normalise.CONTROL, normalise.LINE_END, normalise.SURROGATES, normalise.SUSPECT)
    assert not any(map(loops_in_loops, patterns))


def test_form_that_does_not_exist():
    with pytest.raises(UserError, match=r"normalise\.form='NFX'.*--config\.normalise\.form=NFC"):
        check(Settings(form="NFX"))


def test_without_ftfy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ftfy", None)
    with pytest.raises(UserError, match=r"jaxllm\[prep\]"):
        check(Settings())
    check(Settings(mojibake=False))
