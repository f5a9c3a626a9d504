"""C4's rules (Raffel et al. 2020, section 2.2), by line: keep sentences, drop what is no prose.

The list of bad words is not here: the stage `toxicity` has one.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from jaxllm.data.prepare.stages.base import Dropped, Kept, Outcome, Stage, View, check_settings
from jaxllm.data.prepare.words.tokens import sentences

STAGE = "c4"
CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")  # Wikipedia's
ENDS = (".", "?", "!", '"', "'")
POLICY = (
    "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
    "use cookies",
)


@dataclass(frozen=True)
class Settings:
    """Lines that break a rule are removed; a document that has no prose left is dropped."""

    min_sentences: int = 5  # of the lines that stay; 0: any number
    min_words: int = 3  # a line, counted between white space; 0: any number
    max_word_length: int = 1000  # characters of a line's longest word; 0: any
    end_punctuation: bool = True  # a line ends with one of . ? ! " ' and not with ...
    citations: bool = True  # remove [1], [edit] and [citation needed] from lines
    lorem_ipsum: bool = True  # drop a document with such a line
    curly_bracket: bool = True  # drop a document with { in a line that would stay
    javascript: bool = True  # remove lines that mention it
    policy: tuple[str, ...] = POLICY  # remove lines with one of these, in lower case


def check(settings: Settings) -> None:
    """Raises UserError for a setting that is out of range."""
    check_settings(settings, STAGE, {
        "min_sentences": "[0, inf)", "min_words": "[0, inf)", "max_word_length": "[0, inf)",
    })


def make(settings: Settings) -> Stage:
    """The stage; it keeps the lines that pass, stripped, and counts the others by rule."""
    policy = tuple(phrase.lower() for phrase in settings.policy)

    def stage(view: View) -> Outcome:
        # What the document has nowhere, no line has: one search instead of one a line.
        lorem = settings.lorem_ipsum and "lorem ipsum" in view.lower
        script = settings.javascript and "javascript" in view.lower
        curly = settings.curly_bracket and "{" in view.text
        phrases = [phrase for phrase in policy if phrase in view.lower]
        citations = settings.citations and "[" in view.text
        special = lorem or script or curly or phrases
        kept: list[str] = []
        changes: Counter[str] = Counter()
        missing = settings.min_sentences
        for line in view.lines:
            line = line.strip()
            reason = _too_long(line, settings.max_word_length)
            words, cited = line, 0
            if citations:
                line, cited = CITATION.subn("", line)
            reason = reason or _unfinished(line, words, settings)
            if special and not reason:
                lowered = line.lower()
                if lorem and "lorem ipsum" in lowered:
                    return Dropped("lorem_ipsum")
                if script and "javascript" in lowered:
                    reason = "javascript"
                elif curly and "{" in line:
                    return Dropped("curly_bracket")
                elif any(phrase in lowered for phrase in phrases):
                    reason = "policy"
            if reason:
                changes[f"line_{reason}"] += 1
                continue
            if missing > 0:
                missing -= sentences(line, missing)
            kept.append(line)
            if cited:
                changes["citation"] += cited
        if missing > 0:
            return Dropped("too_few_sentences")
        return Kept("\n".join(kept).strip(), changes)

    return stage


def _too_long(line: str, most: int) -> str:
    if most and len(line) > most and max(map(len, line.split())) > most:
        return "too_long_word"
    return ""


def _unfinished(line: str, words: str, settings: Settings) -> str:
    """`words` is the line with its citations, which count as words."""
    if settings.end_punctuation and (not line.endswith(ENDS) or line.endswith("...")):
        return "no_terminal_punc"
    if settings.min_words and len(words.split(None, settings.min_words - 1)) < settings.min_words:
        return "too_few_words"
    return ""
