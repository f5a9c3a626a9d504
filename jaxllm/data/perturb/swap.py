"""Neighbouring letters of a word change places: "hte" (Belinkov and Bisk 2018, natural typos)."""

from __future__ import annotations

import numpy as np


def perturb(text: str, strength: float, rng: np.random.Generator) -> str:
    """Swaps each letter with the next of its word, at the rate `strength`, none twice."""
    hits, characters, place = rng.random(len(text)) < strength, list(text), 0
    while place < len(text) - 1:
        both = text[place].isalnum() and text[place + 1].isalnum()
        if hits[place] and both and text[place] != text[place + 1]:
            characters[place], characters[place + 1] = text[place + 1], text[place]
            place += 1
        place += 1
    return "".join(characters)
