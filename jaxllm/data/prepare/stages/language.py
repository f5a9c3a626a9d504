"""Which language is it? Identified offline by lingua, for the 75 languages that it knows.

A community whose language is not among them names what to leave out instead (`unwanted`), or leaves
the stage out; without `languages` and `unwanted` it keeps everything and loads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.core.errors import UserError, unknown
from jaxllm.data.prepare.stages.base import Dropped, Kept, Outcome, Stage, View, check_settings

STAGE = "language"


@dataclass(frozen=True)
class Settings:
    """Languages are ISO 639-1 codes, such as "en", "sw" or "yo"."""

    languages: tuple[str, ...] = ()  # keep documents in these; (): in any
    unwanted: tuple[str, ...] = ()  # drop documents that are surely in these
    among: tuple[str, ...] = ()  # tell these apart only: faster, and surer; (): all 75
    min_confidence: float = 0.65  # that it is one of `languages`, or one of `unwanted`; FineWeb's
    sample: int = 500  # characters looked at, from the middle
    short_texts: bool = False  # as sure below 120 characters too, for 1 GB of memory a worker


def check(settings: Settings) -> None:
    """Raises UserError for a setting that is out of range, or when lingua is missing."""
    check_settings(settings, STAGE, {"min_confidence": "[0, 1]", "sample": "[20, inf)"})
    if not settings.languages and not settings.unwanted:
        return
    known = _codes(_lingua())
    for field in ("languages", "unwanted", "among"):
        for code in getattr(settings, field):
            if code not in known:
                raise unknown(f"{STAGE}.{field}", code, known)
    both = sorted(set(settings.languages) & set(settings.unwanted))
    if both:
        raise UserError(
            f"{STAGE}.unwanted={settings.unwanted} has {both[0]!r}, which {STAGE}.languages keeps. "
            "Remove it from one of them."
        )
    if settings.among:
        outside = [
            code for code in settings.languages + settings.unwanted if code not in settings.among
        ]
        if outside:
            raise UserError(
                f"{STAGE}.among={settings.among} lacks {outside[0]!r}, which could then never be "
                f"found. Add it, or leave {STAGE}.among=() to tell all languages apart."
            )
        if len(set(settings.among)) < 2:
            raise UserError(
                f"{STAGE}.among={settings.among} must be at least two languages to tell apart. "
                "Leave it () for all."
            )


def make(settings: Settings) -> Stage:
    """The stage; it changes no text, and counts documents as language_CODE."""
    if not settings.languages and not settings.unwanted:
        return lambda view: Kept(view.text)
    lingua = _lingua()
    codes = _codes(lingua)
    languages = [codes[code] for code in settings.among] or list(codes.values())
    builder = lingua.LanguageDetectorBuilder.from_languages(*languages)
    if not settings.short_texts:
        builder = builder.with_low_accuracy_mode()
    detector = builder.build()
    names = {language: code for code, language in codes.items()}

    def stage(view: View) -> Outcome:
        text = view.text
        start = max(0, (len(text) - settings.sample) // 2)
        found = {
            names[value.language]: value.value
            for value in detector.compute_language_confidence_values(
                _encodable(text[start: start + settings.sample])
            )
        }
        best = max(found, key=found.__getitem__)
        if not found[best]:
            return Dropped("no_language") if settings.languages else Kept(text)
        if settings.languages:
            share = sum(found[code] for code in settings.languages)
            if share < settings.min_confidence:
                surely_other = best not in settings.languages
                return Dropped("other_language" if surely_other else "uncertain_language")
        elif sum(found[code] for code in settings.unwanted) >= settings.min_confidence:
            return Dropped("unwanted_language")
        return Kept(text, {f"language_{best}": 1})

    return stage


def _encodable(text: str) -> str:
    """Without half surrogate pairs, which lingua refuses."""
    return text.encode("utf-8", "replace").decode()


def _codes(lingua) -> dict[str, object]:
    languages = sorted(lingua.Language.all(), key=lambda each: each.iso_code_639_1.name)
    return {each.iso_code_639_1.name.lower(): each for each in languages}


def _lingua():
    try:
        import lingua
    except ImportError as error:
        raise UserError(
            f"{STAGE}.languages and {STAGE}.unwanted need lingua, which is not installed: install "
            'the extra prep (pip install "jaxllm[prep]"), or remove "language" from config.stages.'
        ) from error
    return lingua
