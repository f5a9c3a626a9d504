"""Words in another case: lower, UPPER or Capitalised."""

from __future__ import annotations

import numpy as np

from jaxllm.data.perturb._pieces import each_word, pick


def perturb(text: str, strength: float, rng: np.random.Generator) -> str:
    """Changes the case of each word at the rate `strength`; scripts without case stay."""
    def change(word: str) -> str:
        ways = [w for w in (word.lower(), word.upper(), word.capitalize()) if w != word]
        return pick(rng, ways) if ways else word

    return each_word(text, strength, rng, change)
