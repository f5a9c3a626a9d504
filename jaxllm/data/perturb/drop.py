"""Characters go missing."""

from __future__ import annotations

import numpy as np

from jaxllm.data.perturb._pieces import each_character


def perturb(text: str, strength: float, rng: np.random.Generator) -> str:
    """Drops each letter or digit at the rate `strength`."""
    return each_character(text, strength, rng, lambda c: "")
