"""The rules that FineWeb adds (Penedo et al. 2024, section 3.6): is this prose or a list?"""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.stages.base import Dropped, Kept, Outcome, Stage, View, check_settings
from jaxllm.data.prepare.stages.gopher_repetition import duplicates
from jaxllm.data.prepare.words.chunks import SENTENCE_END

STAGE = "fineweb"


@dataclass(frozen=True)
class Settings:
    """Lines are those that are not blank."""

    min_punctuated_lines: float = 0.12  # share of lines whose last character ends a sentence
    allow_unpunctuated: bool = False  # a text without any such line passes
    end_characters: tuple[str, ...] = ()  # of sentences; (): those of every script in Unicode
    short_line: int = 30  # characters, at most
    max_short_lines: float = 0.67  # share of lines
    max_duplicate_characters: float = 0.01  # share of the text in lines that came before
    max_newlines_per_word: float = 0.3  # words are `View.tokens`


def check(settings: Settings) -> None:
    """Raises UserError for a setting that is out of range."""
    check_settings(settings, STAGE, {
        "min_punctuated_lines": "[0, 1]", "short_line": "[0, inf)", "max_short_lines": "[0, 1]",
        "max_duplicate_characters": "[0, 1]", "max_newlines_per_word": "[0, inf)",
    })
    long = [text for text in settings.end_characters if len(text) != 1]
    if long:
        raise UserError(
            f"{STAGE}.end_characters has {long[0]!r}: each must be one character, such as '.'. "
            "Leave it () for the ends of sentences in every script."
        )


def make(settings: Settings) -> Stage:
    """The stage; it changes no text."""
    ends = frozenset(settings.end_characters) or SENTENCE_END

    def stage(view: View) -> Outcome:
        lines = [line for line in view.rows if line and not line.isspace()]
        if not lines:
            return Dropped("empty")
        share = sum(line[-1] in ends for line in lines) / len(lines)
        if share < settings.min_punctuated_lines and (share or not settings.allow_unpunctuated):
            return Dropped("line_punct_ratio")
        short = sum(len(line) <= settings.short_line for line in lines)
        if short / len(lines) > settings.max_short_lines:
            return Dropped("short_line_ratio")
        newlines = len(view.rows) - 1
        repeated = duplicates(lines)[1] / (len(view.text) - newlines)
        if repeated > settings.max_duplicate_characters:
            return Dropped("char_dup_ratio")
        most = settings.max_newlines_per_word  # there are no fewer tokens than words
        if newlines / view.word_count > most and newlines / len(view.tokens) > most:
            return Dropped("list_ratio")
        return Kept(view.text)

    return stage
