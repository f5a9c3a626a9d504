"""The quality rules of Gopher (Rae et al. 2021, section A.1): is this natural language?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.stages.base import Dropped, Kept, Outcome, Stage, View, check_settings

STAGE = "gopher_quality"
BULLETS = ("•", "-")
ELLIPSES = ("...", "…")


@dataclass(frozen=True)
class Settings:
    """Words are `View.tokens`; a number of 0 switches its rule off."""

    min_words: int = 50  # that are more than punctuation
    max_words: int = 100_000
    min_word_length: float = 3.0  # mean characters of the same words
    max_word_length: float = 10.0
    max_symbols_per_word: float = 0.1  # of #, and of ellipses
    max_bullet_lines: float = 0.9  # share of lines that begin with • or -
    max_ellipsis_lines: float = 0.3  # share of lines that end with an ellipsis
    min_alphabetic_words: float = 0.8  # share of all words, punctuation too, with a letter
    min_stop_words: int = 2  # how many of the following occur
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")


def check(settings: Settings) -> None:
    """Raises UserError for a setting that is out of range."""
    check_settings(settings, STAGE, {
        "min_words": "[0, inf)", "max_words": "[0, inf)", "min_word_length": "[0, inf)",
        "max_word_length": "[0, inf)", "max_symbols_per_word": "[0, inf)",
        "max_bullet_lines": "[0, 1]", "max_ellipsis_lines": "[0, 1]",
        "min_alphabetic_words": "[0, 1]", "min_stop_words": "[0, inf)",
    })
    for low, high in (("min_words", "max_words"), ("min_word_length", "max_word_length")):
        least, most = getattr(settings, low), getattr(settings, high)
        if most and least > most:
            raise UserError(
                f"{STAGE}.{low}={least} is above {STAGE}.{high}={most}, so every document would "
                f"be dropped. Lower the one or raise the other."
            )
    distinct = len(set(settings.stop_words))
    if settings.min_stop_words > distinct:
        raise UserError(
            f"{STAGE}.min_stop_words={settings.min_stop_words} of the {distinct} different words "
            f"in {STAGE}.stop_words can never occur, so every document would be dropped. Set "
            f"--config.{STAGE}.min_stop_words={distinct} or less, or name more stop words."
        )


def make(settings: Settings) -> Stage:
    """The stage; it changes no text."""
    stop_words = frozenset(settings.stop_words)

    def stage(view: View) -> Outcome:
        reason = (
            _words(view, settings) or _symbols(view, settings) or _lines(view, settings)
            or _language(view, settings, stop_words)
        )
        return Dropped(reason) if reason else Kept(view.text)

    return stage


def _words(view: View, settings: Settings) -> str:
    spoken = view.tokens.spoken
    count = np.count_nonzero(spoken)
    if settings.min_words and count < settings.min_words:
        return "short_doc"
    if settings.max_words and count > settings.max_words:
        return "long_doc"
    if count:
        mean = int(view.tokens.lengths[spoken].sum()) / count
        if settings.min_word_length and mean < settings.min_word_length:
            return "below_avg_threshold"
        if settings.max_word_length and mean > settings.max_word_length:
            return "above_avg_threshold"
    return ""


def _symbols(view: View, settings: Settings) -> str:
    most, count = settings.max_symbols_per_word, len(view.tokens)
    if not most or not count:
        return ""
    if view.text.count("#") / count > most:
        return "too_many_hashes"
    return "too_many_ellipsis" if _ellipses(view.text) / count > most else ""


def _lines(view: View, settings: Settings) -> str:
    """A line needs one of the signs somewhere: most texts have too few for a look at the lines."""
    lines, text = view.lines, view.text
    if not lines:
        return ""
    most = settings.max_bullet_lines
    if most and (text.count("•") + text.count("-")) / len(lines) > most and sum(
        line.lstrip().startswith(BULLETS) for line in lines
    ) / len(lines) > most:
        return "too_many_bullets"
    most = settings.max_ellipsis_lines
    if most and _ellipses(text) / len(lines) > most and sum(
        line.rstrip().endswith(ELLIPSES) for line in lines
    ) / len(lines) > most:
        return "too_many_end_ellipsis"
    return ""


def _language(view: View, settings: Settings, stop_words: frozenset[str]) -> str:
    tokens, least = view.tokens, settings.min_alphabetic_words
    if least and len(tokens) and np.count_nonzero(tokens.letters) / len(tokens) < least:
        return "below_alpha_threshold"
    if tokens.distinct(stop_words) < settings.min_stop_words:
        return "too_few_stop_words"
    return ""


def _ellipses(text: str) -> int:
    return text.count("...") + text.count("…")
