"""What publishers put around a text: Project Gutenberg's licence, notices about cookies and policy.

A document that has none of the words these lines are found by costs one search for each word.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.stages.base import Dropped, Kept, Outcome, Stage, View, check_settings

STAGE = "boilerplate"
PHRASES = (
    "accept all cookies", "accept cookies", "reject all cookies", "cookie policy",
    "cookie settings", "cookie preferences", "cookie consent", "cookies to improve",
    "cookies to ensure", "use of cookies", "we use cookies", "uses cookies", "use cookies",
    "enable cookies", "privacy policy", "terms of use", "terms of service", "terms & conditions",
    "terms and conditions",
    "cookies zu", "verwendet cookies", "verwenden cookies", "datenschutzerklärung",
    "utilise des cookies", "utilisons des cookies", "politique de confidentialité",
    "utiliza cookies", "utilizamos cookies", "uso de cookies", "política de privacidad",
    "política de cookies", "utilizza cookie", "utilizza i cookie", "usa cookies",
    "gebruikt cookies", "gebruiken cookies", "использует файлы cookie", "используем файлы cookie",
)
START = re.compile(
    r"\*{3} ?START OF (?:THE|THIS) PROJECT GUTENBERG "
    r"|\*END[ *]+THE SMALL PRINT", re.IGNORECASE,
)
END = re.compile(
    r"\*{3} ?END OF (?:THE|THIS) PROJECT GUTENBERG "
    r"|End of (?:The |This )?Project Gutenberg(?:['’]s|-tm)?(?: E-?book| E-?text|,)", re.IGNORECASE,
)
CREDIT = re.compile(  # the paragraph after the header that says who scanned the book
    r"(?:E-?text )?(?:prepared|produced|transcribed|scanned) by ", re.IGNORECASE
)

HEADER_LINES = 600  # the longest, with the "small print" of the 1990s, are about 400


@dataclass(frozen=True)
class Settings:
    """What is removed; nothing else is touched."""

    gutenberg: bool = True  # Project Gutenberg's header, credits and licence
    notices: bool = True  # short lines about cookies, consent, privacy and terms
    phrases: tuple[str, ...] = PHRASES  # a line with one of these, in any case, is a notice
    max_notice: int = 240  # characters of a notice: a longer line is a paragraph, and stays


def check(settings: Settings) -> None:
    """Raises UserError for a setting that is out of range."""
    check_settings(settings, STAGE, {"max_notice": "[1, inf)"})
    if settings.notices and not all(phrase.strip() for phrase in settings.phrases):
        raise UserError(
            f"{STAGE}.phrases={settings.phrases} has an empty phrase, which every line contains. "
            "Remove it."
        )


def make(settings: Settings) -> Stage:
    """The stage; a document that is nothing but boilerplate is dropped."""
    phrases = tuple(phrase.lower() for phrase in settings.phrases) if settings.notices else ()
    keys = _keys(phrases)

    def stage(view: View) -> Outcome:
        text, lower, changes = view.text, view.lower, Counter()
        if settings.gutenberg and "gutenberg" in lower:
            text = _without_licence(text, changes)
        found = [
            phrase for key, group in keys.items() if key in lower
            for phrase in group if phrase in lower
        ]
        if found:
            text = _without_notices(text, found, settings.max_notice, changes)
        if changes and not text.strip():
            return Dropped("only_boilerplate")
        return Kept(text, changes)

    return stage


def _keys(phrases: tuple[str, ...]) -> dict[str, list[str]]:
    """The phrases by a word that they share, so that most texts are searched for few words."""
    groups: dict[str, list[str]] = {}
    left = list(phrases)
    while left:
        words = Counter(word for phrase in left for word in set(phrase.split()))
        key = max(words, key=lambda word: (words[word], len(word), word))
        groups[key] = [phrase for phrase in left if key in phrase]
        left = [phrase for phrase in left if key not in phrase]
    return groups


def _without_licence(text: str, changes: Counter[str]) -> str:
    """What is between header and licence; either may be missing, as in a part of a book.

    Of several books in one text each loses its own. What is longer than any header is none.
    """
    kept: list[str] = []
    end = 0  # how much is kept for sure: up to the end of the last book
    ended = False
    headed = in_credit = False
    for line in text.split("\n"):
        stripped = line.strip()
        if START.match(stripped):
            if len(kept) - end <= HEADER_LINES:
                kept[end:] = [""] if end else []
            ended, headed = False, True
            changes["gutenberg_header"] += 1
            continue
        if not ended and END.match(stripped):
            end, ended = len(kept), True
            changes["gutenberg_licence"] += 1
        if stripped and headed:  # the first paragraph after the header
            headed, in_credit = False, CREDIT.match(stripped) is not None
        in_credit = in_credit and bool(stripped)
        if not in_credit:
            kept.append(line)
    if ended:
        del kept[end:]
    return "\n".join(kept).strip("\n") if changes else text


def _without_notices(
    text: str, phrases: list[str], longest: int, changes: Counter[str]
) -> str:
    kept = []
    for line in text.split("\n"):
        if len(line) <= longest:
            lowered = line.lower()
            if any(phrase in lowered for phrase in phrases):
                changes["notice"] += 1
                continue
        kept.append(line)
    return "\n".join(kept)
