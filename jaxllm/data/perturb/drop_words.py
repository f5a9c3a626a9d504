"""Words go missing (Wei and Zou 2019, EDA: random deletion)."""

from __future__ import annotations

import re

import numpy as np

from jaxllm.data.perturb._pieces import WORDS

WORD = re.compile(rf"\s?{WORDS.pattern}")


def perturb(text: str, strength: float, rng: np.random.Generator) -> str:
    """Drops each word with the space before it at the rate `strength`; one at least stays."""
    found = list(WORD.finditer(text))
    if len(found) < 2:
        return text
    gone = rng.random(len(found)) < strength
    if gone.all():
        gone[int(rng.integers(len(found)))] = False
    pieces, last = [], 0
    for match, drop in zip(found, gone.tolist(), strict=True):
        if drop:
            pieces.append(text[last : match.start()])
            last = match.end()
    return "".join([*pieces, text[last:]])
