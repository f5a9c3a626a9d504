"""Toxicity: the word list's share, and classifiers named by import path."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm import samples
from jaxllm.core.errors import UserError
from jaxllm.data.prepare.stages import toxicity
from jaxllm.data.prepare.stages.base import Dropped, Kept, View
from jaxllm.data.prepare.stages.toxicity import Settings

PLUGIN = """
def length(texts):
    return [len(text) / 10 for text in texts]

def two(texts):
    return [0.0, 1.0]

def nothing(texts):
    return [float("nan")]

NUMBER = 1
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    name = f"plugged_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@settings(deadline=None)
@given(st.lists(st.sampled_from(["fine", "words", "BAD!", "(worse)", "“bad”"]), max_size=30))
def test_share_of_listed_words(words):
    scorer = toxicity.words_scorer(frozenset({"bad", "worse"}), least=2)
    listed = sum(word[0] in 'B(“' for word in words)
    assert scorer([" ".join(words)]) == [listed / len(words) if listed >= 2 else 0.0]


def test_default_list():
    stage = toxicity.make(Settings())
    words = sorted(toxicity._read(""))
    assert stage(View("So " + " ".join(words[:5]).upper() + "!")) == Dropped("toxic")
    assert stage(View(f"Only one {words[0]} in it.")).text.startswith("Only")
    few = " ".join(words[:3] + ["fine"] * 297)  # 3 of 300 words are 0.01, not above it
    assert stage(View(few)) == Kept(few)
    assert stage(View(few + " " + words[4])) == Dropped("toxic")


def test_harmless_words_are_not_listed():
    words = toxicity._read("")
    assert not words & {
        "gay", "lesbian", "queer", "trans", "black", "muslim", "jew", "breast", "sex", "vagina",
        "penis", "dick", "hell", "damn", "bitch", "cock", "ass", "retard", "nude",
    }
    assert len(words) < 120


def test_own_list(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("# mine\nFoo\n\nबुरा\n")
    stage = toxicity.make(Settings(word_list=str(file), least_words=1, threshold=0.4))
    assert stage(View("foo बुरा। bar")) == Dropped("toxic")
    assert stage(View("foo bar baz")) == Kept("foo bar baz")


def test_plain_text_is_kept():
    stage = toxicity.make(Settings())
    for file in samples.ROOT.glob("*/*.txt"):
        text = file.read_text("utf-8")
        assert stage(View(text)) == Kept(text)


def test_plugged_classifier(plugin):
    stage = toxicity.make(Settings(scorer=f"{plugin}:length", threshold=0.5))
    assert stage(View("short")) == Kept("short")
    assert stage(View("longer")) == Dropped("toxic")


@pytest.mark.parametrize("values, wrong", [
    ({"scorer": "no_such_module_here:f"}, "cannot be imported"),
    ({"scorer": "word"}, "neither 'words' nor an import path"),
    ({"scorer": "__import__('os').remove:x"}, "neither 'words' nor"),
    ({"scorer": "json:load_all"}, "Functions there: .*load"),
    ({"scorer": "math:pi"}, "not a function"),
    ({"scorer": "json:loads", "word_list": "x"}, "only read with"),
    ({"word_list": "no/such.txt"}, "cannot be read"),
    ({"threshold": float("nan")}, "threshold=nan"), ({"threshold": -1.0}, "threshold"),
    ({"threshold": 1.0}, "drops nothing"), ({"least_words": 0}, "least_words"),
])
def test_bad_settings(values, wrong):
    with pytest.raises(UserError, match=wrong):
        toxicity.check(Settings(**values))


@pytest.mark.parametrize("name, wrong", [("two", "one number"), ("nothing", "NaN")])
def test_bad_scores(plugin, name, wrong):
    with pytest.raises(UserError, match=wrong):
        toxicity.make(Settings(scorer=f"{plugin}:{name}"))(View("text"))


@pytest.mark.parametrize("content, wrong", [("two words\n", "one word"), ("# none\n", "no words")])
def test_bad_lists(tmp_path, content, wrong):
    file = tmp_path / "words.txt"
    file.write_text(content)
    with pytest.raises(UserError, match=wrong):
        toxicity.check(Settings(word_list=str(file)))
