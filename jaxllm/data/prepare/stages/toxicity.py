"""Toxicity: documents with a high score are left out.

What scores is exchangeable. Out of the box it is the share of words that stand in a short list
(toxicity_words.txt), which needs no model and no network and finds pornography and abuse, not
contempt in polite words. A classifier is plugged in by its import path, without changing a file
here:

    config.toxicity.scorer = "my_package.classifier:scores"
    config.toxicity.threshold = 0.5

where `scores(texts: list[str]) -> list[float]` gives one number for each text, higher for more
toxic. It has to be importable on every worker, must give the same numbers wherever it runs, and
should load its model once (functools.cache), not for each call. It is called with one document at
a time.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxllm.core.errors import UserError
from jaxllm.core.paths import path
from jaxllm.data.prepare.stages.base import Dropped, Kept, Outcome, Stage, View

Scorer = Callable[[list[str]], Sequence[float]]
WORDS = "words"
DEFAULT_LIST = Path(__file__).with_name("toxicity_words.txt")
_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")
_EDGES = "".join(map(chr, (*range(33, 48), *range(58, 65), *range(91, 97), *range(123, 127)))) + (
    "‘’“”„«»‹›…–—¡¿、。，．！？：；（）「」।॥،؛؟·"
)  # what may stand at either end of a word


@dataclass(frozen=True)
class Settings:
    """What scores, and from where on a document is dropped."""

    scorer: str = WORDS  # words | package.module:function (texts -> scores)
    threshold: float = 0.01  # documents with a higher score are dropped; of "words": the share
    least_words: int = 3  # of "words": with fewer listed words than this the score is 0
    word_list: str = ""  # of "words": a file with a word a line in place of the package's list


def check(settings: Settings) -> None:
    """Raises UserError for settings that cannot work; imports the scorer or reads the list."""
    if not math.isfinite(settings.threshold) or settings.threshold < 0:
        raise UserError(
            f"toxicity.threshold={settings.threshold} must be a number from 0: documents that "
            "score higher are dropped."
        )
    if settings.scorer == WORDS and settings.threshold >= 1:
        raise UserError(
            f"toxicity.threshold={settings.threshold} is a share of words with toxicity.scorer="
            "'words' and drops nothing from 1 on: choose one below, such as 0.01."
        )
    if settings.least_words < 1:
        raise UserError(f"toxicity.least_words={settings.least_words} must be at least 1.")
    _scorer(settings)


def digest(settings: Settings) -> str:
    """The words of a list of the user's; "" where there is none: the package's has its version."""
    if not settings.word_list:
        return ""
    return hashlib.sha256("\n".join(sorted(_read(settings.word_list))).encode()).hexdigest()


def make(settings: Settings) -> Stage:
    """The stage: drops for the reason "toxic"."""
    check(settings)
    scorer, threshold = _scorer(settings), settings.threshold

    def stage(view: View) -> Outcome:
        return Dropped("toxic") if _score(scorer, view.text, settings) > threshold else Kept(
            view.text)

    return stage


def _score(scorer: Scorer, text: str, settings: Settings) -> float:
    scores = scorer([text])
    try:
        (score,) = scores
        score = float(score)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"toxicity.scorer={settings.scorer!r} gave {_short(scores)} for a list of one text: it "
            "must give one number for each text."
        ) from error
    if math.isnan(score):
        raise UserError(
            f"toxicity.scorer={settings.scorer!r} gave NaN for the text that begins "
            f"{text[:40]!r}: a score must be a number."
        )
    return score


def _scorer(settings: Settings) -> Scorer:
    if settings.scorer == WORDS:
        return words_scorer(_read(settings.word_list), settings.least_words)
    if settings.word_list:
        raise UserError(
            f"toxicity.word_list={settings.word_list!r} is only read with toxicity.scorer='words', "
            f"not with {settings.scorer!r}: leave one of them out."
        )
    if not _PATH.fullmatch(settings.scorer):
        raise UserError(
            f"toxicity.scorer={settings.scorer!r} is neither 'words' nor an import path such as "
            "'my_package.classifier:scores'."
        )
    module, _, name = settings.scorer.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise UserError(
            f"toxicity.scorer={settings.scorer!r}: the module {module!r} cannot be imported "
            f"({error}). Install it, or put its folder into PYTHONPATH."
        ) from error
    except AttributeError as error:
        raise UserError(
            f"toxicity.scorer={settings.scorer!r}: the module {module!r} has no {name!r}. Functions"
            f" there: {', '.join(_functions(module)) or 'none'}."
        ) from error
    if not callable(found):
        raise UserError(
            f"toxicity.scorer={settings.scorer!r} is a {type(found).__name__}, not a function."
        )
    return found


def words_scorer(words: frozenset[str], least: int = 1) -> Scorer:
    """The share of a text's words that are among `words` (in small letters), 0 where fewer than
    `least` are. A word is what lies between white space, without punctuation at its ends."""

    def scores(texts: list[str]) -> list[float]:
        return [share(text) for text in texts]

    def share(text: str) -> float:
        tokens = text.lower().split()
        listed = sum(token.strip(_EDGES) in words for token in tokens)
        return listed / len(tokens) if listed >= least else 0.0

    return scores


def _read(file: str) -> frozenset[str]:
    try:
        text = path(file or DEFAULT_LIST).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"toxicity.word_list={file!r} cannot be read ({error}): name a UTF-8 text file with a "
            "word a line, or leave it empty for the package's list."
        ) from error
    lines = (line.strip().lower() for line in text.splitlines())
    words = frozenset(line for line in lines if line and not line.startswith("#"))
    if bad := sorted(word for word in words if word.split() != [word.strip(_EDGES)]):
        raise UserError(
            f"toxicity.word_list={file!r} has the line {bad[0]!r}: a line holds one word, without "
            "spaces inside or punctuation at its ends."
        )
    if not words:
        raise UserError(f"toxicity.word_list={file!r} has no words: write a word a line.")
    return words


def _functions(module: str) -> list[str]:
    found = vars(importlib.import_module(module))
    return sorted(name for name, value in found.items() if callable(value) and name[0] != "_")[:10]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:60] + " …"
