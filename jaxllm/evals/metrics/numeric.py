"""Numeric answers at the end of a reasoning (GSM8K, Cobbe et al. 2021).

`strict` reads the number after "####", `flexible` the last number of the text, as the filters of
lm-evaluation-harness do; numbers are compared by value, so that 1,000 and 1000.0 are equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation

import numpy as np

from jaxllm.core.errors import UserError

_STRICT = re.compile(r"#### ?\$?(-?[0-9.,]+)")
_NUMBER = re.compile(r"-?\$?[0-9][0-9.,]*|-?\$?\.[0-9]+")


def statistics(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """[N, 3]: right by the strict rule, by the flexible one, and 1.

    Raises:
      UserError: a reference has no number.
    """
    rows = []
    for number, (mine, true) in enumerate(zip(predictions, references, strict=True)):
        wanted = strict(true)
        wanted = flexible(true) if wanted is None else wanted
        if wanted is None:
            raise UserError(f"numeric: the reference of example {number} has no number: {true!r}.")
        rows.append([strict(mine) == wanted, flexible(mine) == wanted, 1.0])
    return np.asarray(rows, np.float64).reshape(-1, 3)


def finish(sums: np.ndarray) -> Mapping[str, np.ndarray]:
    """`exact_match_strict` and `exact_match_flexible`, from 0 to 1."""
    return {
        "exact_match_strict": sums[:, 0] / sums[:, 2],
        "exact_match_flexible": sums[:, 1] / sums[:, 2],
    }


def strict(text: str) -> Decimal | None:
    """The number after the first "####"."""
    found = _STRICT.search(text)
    return _value(found[1]) if found else None


def flexible(text: str) -> Decimal | None:
    """The last number of the text."""
    found = _NUMBER.findall(text)
    return _value(found[-1]) if found else None


def _value(digits: str) -> Decimal | None:
    try:
        return Decimal(digits.replace(",", "").replace("$", "").rstrip("."))
    except InvalidOperation:
        return None
