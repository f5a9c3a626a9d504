"""A finger hits the key beside: the neighbours of a QWERTY keyboard."""

from __future__ import annotations

import numpy as np

from jaxllm.data.perturb._pieces import each_character, like, pick

ROWS = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")  # each row half a key to the right


def _neighbours() -> dict[str, str]:
    found = {}
    for number, row in enumerate(ROWS):
        for place, key in enumerate(row):
            near = [row[i] for i in (place - 1, place + 1) if 0 <= i < len(row)]
            for other, offsets in ((number - 1, (0, 1)), (number + 1, (-1, 0))):
                if 0 <= other < len(ROWS):
                    near += [
                        ROWS[other][place + o] for o in offsets
                        if 0 <= place + o < len(ROWS[other])
                    ]
            found[key] = "".join(near)
    return found


NEIGHBOURS = _neighbours()


def perturb(text: str, strength: float, rng: np.random.Generator) -> str:
    """Each key of the table becomes a neighbour at the rate `strength`; other scripts stay."""
    def change(c: str) -> str:
        near = NEIGHBOURS.get(c.lower())
        return like(c, pick(rng, near)) if near else c

    return each_character(text, strength, rng, change)
