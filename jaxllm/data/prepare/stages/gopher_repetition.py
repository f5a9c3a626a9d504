"""The repetition rules of Gopher (Rae et al. 2021, table A1): how much of a text repeats itself?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxllm.data.prepare.stages.base import (
    Dropped,
    Kept,
    Outcome,
    Stage,
    View,
    check_pairs,
    check_settings,
)
from jaxllm.data.prepare.words.tokens import Tokens

STAGE = "gopher_repetition"
BLANK_LINES = re.compile(r"\n{2,}")
LINE_ENDS = re.compile(r"\n+")


@dataclass(frozen=True)
class Settings:
    """Shares that may at most be repetition; 0 switches a rule off. Words are `View.tokens`."""

    max_duplicate_paragraphs: float = 0.3  # share of paragraphs (between blank lines)
    max_duplicate_paragraph_characters: float = 0.2  # share of the text
    max_duplicate_lines: float = 0.3
    max_duplicate_line_characters: float = 0.2
    top_sizes: tuple[int, ...] = (2, 3, 4)  # words
    max_top: tuple[float, ...] = (0.20, 0.18, 0.16)  # text in the commonest n-gram of each size
    repeated_sizes: tuple[int, ...] = (5, 6, 7, 8, 9, 10)  # words
    max_repeated: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)  # text in n-grams
    # that came before, for each size


def check(settings: Settings) -> None:
    """Raises UserError for a setting that is out of range."""
    check_settings(settings, STAGE, {
        "max_duplicate_paragraphs": "[0, 1]", "max_duplicate_paragraph_characters": "[0, 1]",
        "max_duplicate_lines": "[0, 1]", "max_duplicate_line_characters": "[0, 1]",
    })
    check_pairs(settings, STAGE, "top_sizes", "max_top")
    check_pairs(settings, STAGE, "repeated_sizes", "max_repeated")


def make(settings: Settings) -> Stage:
    """The stage; it changes no text."""
    top = list(zip(settings.top_sizes, settings.max_top, strict=True))
    repeated = list(zip(settings.repeated_sizes, settings.max_repeated, strict=True))

    def stage(view: View) -> Outcome:
        if not view.text:
            return Dropped("empty")
        reason = (
            _paragraphs(view, settings) or _lines(view, settings)
            or _top(view.tokens, top, len(view.text))
            or _repeated(view.tokens, repeated, len(view.text))
        )
        return Dropped(reason) if reason else Kept(view.text)

    return stage


def duplicates(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts came before, and their characters."""
    if len(set(parts)) == len(parts):
        return 0, 0
    seen: set[str] = set()
    characters = 0
    for part in parts:
        if part in seen:
            characters += len(part)
        else:
            seen.add(part)
    return len(parts) - len(seen), characters


def _paragraphs(view: View, settings: Settings) -> str:
    if "\n\n" not in view.text:
        return ""  # one paragraph
    paragraphs = BLANK_LINES.split(view.text.strip())
    most = (settings.max_duplicate_paragraphs, settings.max_duplicate_paragraph_characters)
    return _parts(view, paragraphs, most, "dup_para")


def _lines(view: View, settings: Settings) -> str:
    lines = LINE_ENDS.split(view.text) if "\n\n" in view.text else view.rows
    most = (settings.max_duplicate_lines, settings.max_duplicate_line_characters)
    return _parts(view, lines, most, "dup_line")


def _parts(view: View, parts: list[str], most: tuple[float, float], what: str) -> str:
    """The reason to drop a text for its repeated parts, counted and in characters; "": none."""
    count, characters = duplicates(parts)
    if _above(count, len(parts), most[0]):
        return f"{what}_frac"
    if _above(characters, len(view.text), most[1]):
        return f"{what}_char_frac"
    return ""


def _above(part: int, whole: int, most: float) -> bool:
    return bool(most) and part / whole > most


def _top(tokens: Tokens, rules: list[tuple[int, float]], characters: int) -> str:
    """Most texts pass all sizes at once: a larger n-gram is no commoner than a smaller one."""
    rules = [(n, most) for n, most in rules if most and len(tokens) >= n]
    if not rules:
        return ""
    largest = max(n for n, _ in rules)
    width = int(tokens.widths(largest).max()) + largest - 1
    enough = min(_times(width, most, characters) for _, most in rules)
    if enough and not tokens.repeats(min(n for n, _ in rules), enough):
        return ""
    for n, most in rules:
        widths = tokens.widths(n) + (n - 1)  # joined by spaces
        enough = _times(int(widths.max()), most, characters)
        if enough and not tokens.repeats(n, enough):
            continue
        count, first = _commonest(tokens, n)
        if count * int(widths[first]) / characters > most:
            return f"top_{n}_gram"
    return ""


def _times(width: int, most: float, characters: int) -> int:
    """How often something of this width may occur and be at most this share of the characters."""
    times = int(most * characters / width) + 1
    while times * width / characters > most:  # exactly as the rule divides
        times -= 1
    return times


def _commonest(tokens: Tokens, n: int) -> tuple[int, int]:
    """How often the commonest n-gram occurs, and where first; of several the one that is first."""
    keys, ordered = tokens.keys(n), tokens.ordered(n)
    ends = np.append((ordered[1:] != ordered[:-1]).nonzero()[0], len(keys) - 1)
    counts = np.diff(ends, prepend=-1)
    count = int(counts.max())
    if count == 1:
        return 1, 0
    commonest = ordered[ends[counts == count]]
    if len(commonest) == 1:
        return count, int((keys == commonest[0]).argmax())
    return count, int(np.isin(keys, commonest).argmax())


def _repeated(tokens: Tokens, rules: list[tuple[int, float]], characters: int) -> str:
    """The text in n-grams that came before; what the smallest n repeats bounds the larger ones."""
    rules = [(n, most) for n, most in rules if most and len(tokens) >= n]
    if not rules:
        return ""
    bound = _bound(tokens, min(n for n, _ in rules), min(most for _, most in rules) * characters)
    for n, most in rules:
        if bound / characters > most and _greedy(tokens, n) / characters > most:
            return f"duplicated_{n}_n_grams"
    return ""


def _bound(tokens: Tokens, n: int, enough: float) -> int:
    """At least the characters in n-grams, or longer ones, of which an equal one begins earlier.

    A coarse bound when that is at most `enough`, else all words that such an n-gram covers.
    """
    repeats = tokens.repeats(n)
    if not repeats:
        return 0
    coarse = repeats * int(tokens.widths(n).max())
    if coarse <= enough:
        return coarse
    keys = tokens.keys(n)
    order = np.argsort(keys, kind="stable")
    ordered = tokens.ordered(n)
    later = order[1:][ordered[1:] == ordered[:-1]]
    steps = np.bincount(later, minlength=len(tokens) + 1)
    steps[n:] -= steps[:-n].copy()
    return int(tokens.lengths[np.cumsum(steps)[:-1] > 0].sum())


def _greedy(tokens: Tokens, n: int) -> int:
    """Characters of repeated n-grams that do not overlap, as they are met from the start."""
    keys, widths = tokens.keys(n).tolist(), tokens.widths(n).tolist()
    seen: set[int] = set()
    place = characters = 0
    while place < len(keys):
        if keys[place] in seen:
            characters += widths[place]
            place += n
        else:
            seen.add(keys[place])
            place += 1
    return characters
