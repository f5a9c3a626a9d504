"""A character comes twice, or one of the same text slips in."""

from __future__ import annotations

import numpy as np

from jaxllm.data.perturb._pieces import each_character, pick


def perturb(text: str, strength: float, rng: np.random.Generator) -> str:
    """After each letter or digit, at the rate `strength`, one of the text's own, in any script."""
    own = sorted({c for c in text.casefold() if c.isalnum()})
    return each_character(text, strength, rng, lambda c: c + pick(rng, own))
