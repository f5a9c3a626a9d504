"""What the perturbations share: which characters or words are hit, and the words of a text."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

WORDS = re.compile(r"\w+(?:['’]\w+)*")


def each_character(
    text: str, strength: float, rng: np.random.Generator, change: Callable[[str], str]
) -> str:
    """The text with each letter or digit replaced by `change(character)` at this rate."""
    hits = rng.random(len(text)) < strength
    if not hits.any():
        return text
    return "".join(
        change(c) if hit and c.isalnum() else c for c, hit in zip(text, hits.tolist(), strict=True)
    )


def each_word(
    text: str, strength: float, rng: np.random.Generator, change: Callable[[str], str]
) -> str:
    """The text with each word replaced by `change(word)` at this rate; what is between stays."""
    return WORDS.sub(lambda m: change(m[0]) if rng.random() < strength else m[0], text)


def like(word: str, other: str) -> str:
    """`other` in the case of `word`: lower, Capitalised or UPPER."""
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other


def pick(rng: np.random.Generator, choices: str | tuple[str, ...] | list[str]) -> str:
    """One of the choices."""
    return choices[int(rng.integers(len(choices)))]
