"""Language identification: what is kept and left out, and that off means off."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.stages.base import Dropped, Kept, View
from jaxllm.data.prepare.stages.language import Settings, check, make

TEXTS = {
    "en": "The committee decided today to raise its target for the rate, as inflation was high.",
    "fr": "Le comité a décidé aujourd'hui de relever son objectif, car l'inflation était élevée.",
    "sw": "Kamati iliamua leo kuongeza kiwango cha riba kwa sababu mfumuko wa bei ulikuwa juu.",
    "yo": "Ìgbìmọ̀ náà pinnu lónìí láti gbé iye owó èlé sókè nítorí pé ọ̀wọ́n gógó pọ̀ jù.",
    "ru": "Комитет решил сегодня повысить ставку, так как инфляция оставалась слишком высокой.",
}


@pytest.mark.parametrize("code", TEXTS)
def test_wanted_language_is_kept_and_others_dropped(code):
    stage = make(Settings(languages=(code,)))
    for each, text in TEXTS.items():
        wanted = Kept(text, {f"language_{code}": 1})
        assert stage(View(text)) == (wanted if each == code else Dropped("other_language"))


def test_unwanted_languages_are_dropped_and_others_kept():
    stage = make(Settings(unwanted=("en", "fr")))
    dropped = {code for code, text in TEXTS.items() if isinstance(stage(View(text)), Dropped)}
    assert dropped == {"en", "fr"}


def test_a_text_without_a_language():
    assert make(Settings(languages=("en",)))(View("123 456 !!!")) == Dropped("no_language")
    assert make(Settings(unwanted=("en",)))(View("123 456 !!!")) == Kept("123 456 !!!")


def test_uncertain_is_told_from_other():
    stage = make(Settings(languages=("en",), min_confidence=1.0))
    assert stage(View("no, the")) in (Dropped("uncertain_language"), Dropped("other_language"))
    both = make(Settings(languages=("en", "fr"), among=("en", "fr")))
    assert isinstance(both(View("restaurant menu")), Kept)  # surely one of the two


def test_off_keeps_everything_and_loads_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "lingua", None)
    check(Settings())
    assert make(Settings())(View("quoi")) == Kept("quoi")
    with pytest.raises(UserError, match=r"jaxllm\[prep\]"):
        check(Settings(languages=("en",)))


@settings(max_examples=30)
@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_any_text_is_decided_and_none_is_changed(text):
    outcome = STAGE(View(text))
    assert isinstance(outcome, Dropped) or outcome.text == text


STAGE = make(Settings(languages=("en",), among=("en", "fr", "de")))


@pytest.mark.parametrize(("changes", "named"), [
    ({"languages": ("eng",)}, r"language\.languages='eng'.*'en'"),
    ({"languages": ("en",), "min_confidence": 1.5}, r"language\.min_confidence=1\.5"),
    ({"languages": ("en",), "unwanted": ("en",)}, r"language\.unwanted"),
    ({"languages": ("en",), "among": ("fr", "de")}, r"language\.among"),
    ({"languages": ("en",), "among": ("en",)}, r"language\.among"),
    ({"languages": ("en",), "sample": 3}, r"language\.sample=3"),
])
def test_settings_out_of_range(changes, named):
    with pytest.raises(UserError, match=named):
        check(Settings(**changes))
