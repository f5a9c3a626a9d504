"""Unicode in one form: mojibake undone, line ends, control characters, canonical composition.

Text that is ASCII and has no control characters, the common case, costs one search. Mojibake (UTF-8
that was read as another encoding, `Ã©` for `é`) is undone by ftfy, line by line, and only in lines
that have a pair of characters as mojibake begins with and that ftfy finds bad.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.stages.base import Kept, Outcome, Stage, View

STAGE = "normalise"
FORMS = ("", "NFC", "NFKC")
PASSES = 8  # of a text that each pass still changes; one that is only composed takes two
CONTROL = re.compile(  # all but tab and line feed; byte order marks, surrogates, non-characters
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]"
)
LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # a character as JSON writes it
ENCODINGS = (  # that UTF-8 is taken for
    "latin-1", "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1257", "iso8859-2", "mac_roman",
    "cp437",
)
LEAD = 0xC2  # the first byte of two
QUOTES = set("‘’“”")  # too common before a letter (’é); only Mac Roman shows Armenian as these


def _shown(low: int, high: int) -> str:
    """A regular expression's class: the characters that bytes low to high are shown as."""
    shown = {
        bytes([byte]).decode(encoding, "ignore") or chr(byte)
        for byte in range(low, high + 1) for encoding in ENCODINGS
    }
    return f"[{re.escape(''.join(sorted(shown - QUOTES if low == LEAD else shown)))}]"


# The first two bytes of a character in UTF-8; or those of `à`, the second of which became a space.
SUSPECT = re.compile(f"{_shown(LEAD, 0xF4)}{_shown(0x80, 0xBF)}|Ã ")


@dataclass(frozen=True)
class Settings:
    """What is put right."""

    mojibake: bool = True  # UTF-8 read as another encoding; needs ftfy, of the extra `prep`
    line_ends: bool = True  # CR LF, CR, form feeds and Unicode's separators become line feeds
    control_characters: bool = True  # remove them, byte order marks and half surrogate pairs too
    form: str = "NFC"  # Unicode's normal form: NFC | NFKC (which loses distinctions) | "" for none


def check(settings: Settings) -> None:
    """Raises UserError for a setting that is out of range, or when ftfy is missing."""
    if settings.form not in FORMS:
        raise UserError(
            f"{STAGE}.form={settings.form!r} is none of {', '.join(map(repr, FORMS))}. Set "
            f"--config.{STAGE}.form=NFC, which changes how characters are written and no other "
            "thing."
        )
    if settings.mojibake:
        _ftfy()


def make(settings: Settings) -> Stage:
    """The stage; it drops nothing and counts the lines, characters and documents it put right."""
    ftfy = _ftfy() if settings.mojibake else None

    def stage(view: View) -> Outcome:
        text, changes = view.text, Counter()
        if text.isascii() and not CONTROL.search(text):
            return Kept(text)
        for _ in range(PASSES):
            before = text
            text = _once(text, settings, ftfy, changes)
            if text == before:
                break
        return Kept(text, changes)

    return stage


def _once(text: str, settings: Settings, ftfy, changes: Counter[str]) -> str:
    if ftfy and not text.isascii() and SUSPECT.search(text):
        text = _repaired(text, ftfy, changes)
    if CONTROL.search(text):
        if settings.line_ends:
            text, count = LINE_END.subn("\n", text)
            _add(changes, "line_end", count)
        if settings.control_characters:
            text = SURROGATES.sub(_joined, text)
            text, count = CONTROL.subn(_kept_line_end, text)
            _add(changes, "control_character", count)
    if settings.form and not unicodedata.is_normalized(settings.form, text):
        text = unicodedata.normalize(settings.form, text)
        changes["recomposed"] = 1
    return text


def _repaired(text: str, ftfy, changes: Counter[str]) -> str:
    """Lines in which nothing is bad stay as they are: ftfy gives up on a text that is bad in part.

    A next-line character (U+0085) ends no line here: it is half of a character's mojibake.
    """
    lines = text.split("\n")
    for place, line in enumerate(lines):
        if SUSPECT.search(line) and ftfy.badness.is_bad(line):
            fixed = ftfy.fix_encoding(line)
            if fixed != line:
                lines[place] = fixed
                changes["mojibake_line"] += 1
    return "\n".join(lines)


def _joined(match: re.Match[str]) -> str:
    return match[0].encode("utf-16", "surrogatepass").decode("utf-16")


def _kept_line_end(match: re.Match[str]) -> str:
    """A line end that is left as it is (`line_ends` off) is no control character."""
    return match[0] if LINE_END.fullmatch(match[0]) else ""


def _add(changes: Counter[str], name: str, count: int) -> None:
    if count:
        changes[name] += count


def _ftfy():
    try:
        import ftfy
        import ftfy.badness
    except ImportError as error:
        raise UserError(
            f"{STAGE}.mojibake=True needs ftfy, which is not installed: install the extra prep "
            f'(pip install "jaxllm[prep]"), or set --config.{STAGE}.mojibake=False.'
        ) from error
    return ftfy
