"""English text with its genders exchanged, and how often each gender is spoken of.

The table is our own, small and dedicated to the public domain: pairs of words that say a gender,
and pairs of first names that are common in the United States. A name before another capitalised
word is left alone: it is likely a person of history, of whom the sentence would become false.
"""

from __future__ import annotations

import re

PAIRS = tuple(tuple(line.split()) for line in """
he she
himself herself
man woman
men women
boy girl
boys girls
male female
males females
father mother
fathers mothers
dad mom
son daughter
sons daughters
brother sister
brothers sisters
husband wife
husbands wives
boyfriend girlfriend
uncle aunt
uncles aunts
nephew niece
grandfather grandmother
grandson granddaughter
gentleman lady
gentlemen ladies
sir madam
mr mrs
king queen
prince princess
actor actress
waiter waitress
groom bride
widower widow
policeman policewoman
businessman businesswoman
""".strip().splitlines())
NAMES = tuple(tuple(line.split()) for line in """
James Mary
John Patricia
Robert Jennifer
Michael Linda
David Elizabeth
William Barbara
Richard Susan
Joseph Jessica
Thomas Karen
Charles Sarah
Christopher Lisa
Daniel Nancy
Matthew Sandra
Anthony Betty
Paul Emily
Steven Kimberly
Andrew Margaret
Kevin Donna
Brian Michelle
George Carol
Edward Amanda
Jason Melissa
Ryan Laura
Jacob Amy
Eric Angela
Jonathan Anna
Peter Emma
Adam Julia
Henry Alice
Tom Jane
""".strip().splitlines())
MALE = frozenset({male for male, _ in PAIRS} | {"him", "his"})
FEMALE = frozenset({female for _, female in PAIRS} | {"her", "hers"})

_WORDS = re.compile(r"[^\W\d_]+")
_OTHER = {**{a: b for a, b in PAIRS}, **{b: a for a, b in PAIRS}, "him": "her", "hers": "his"}
_OTHER_NAME = {**{a: b for a, b in NAMES}, **{b: a for a, b in NAMES}}
_NEXT = re.compile(r"\s+([^\W\d_]+)")
# After one of these "her" is whom something is done to, not whose something is.
_AFTER_WHOM = """
a about after again all an and as at because before but by during for from he her here his how i if
in into is it its like my no nor not of off on or our out over she so that the their then there
these they this those to too until up was what when where which while who why with would yet you
your
"""
_NO_NOUN = frozenset(_AFTER_WHOM.split())


def swap(text: str) -> str:
    """The text with female words and names for male ones, and the other way round."""
    return _WORDS.sub(lambda match: _swapped(match, text), text)


def count(text: str) -> tuple[int, int]:
    """How many words of the text are female, and how many male."""
    words = [word.lower() for word in _WORDS.findall(text)]
    return sum(word in FEMALE for word in words), sum(word in MALE for word in words)


def _swapped(match: re.Match, text: str) -> str:
    word, behind = match[0], _NEXT.match(text, match.end())
    if word in _OTHER_NAME:
        return word if behind and behind[1][0].isupper() else _OTHER_NAME[word]
    lower = word.lower()
    owns = bool(behind) and behind[1].lower() not in _NO_NOUN
    if lower == "her":
        other = "his" if owns else "him"
    elif lower == "his":
        other = "her" if owns else "hers"
    else:
        other = _OTHER.get(lower, "")
    if not other:
        return word
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
