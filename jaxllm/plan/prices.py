"""What a chip costs per hour: an editable table, `prices.json`, or one of your own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxllm.core.errors import UserError, nearest
from jaxllm.core.paths import path
from jaxllm.plan.chips import CHIPS

TABLE = Path(__file__).parent / "prices.json"
TERMS = ("on_demand", "spot", "committed")


@dataclass(frozen=True)
class Prices:
    """Money per chip-hour by chip and by the terms of renting; None where it is not known."""

    per_chip_hour: dict[str, dict[str, float | None]]
    as_of: str
    currency: str
    source: str  # the file

    def of(self, chip: str) -> dict[str, float | None]:
        """The prices of a chip under each of TERMS."""
        row = self.per_chip_hour.get(chip, {})
        return {term: row.get(term) for term in TERMS}


def read_prices(file: str = "") -> Prices:
    """The table of `file`, shaped as prices.json; "": ours, of list prices.

    Raises:
      UserError: there is no such file, or it is no such table.
    """
    source = path(file) if file else TABLE
    if not source.exists():
        raise UserError(f"--prices={file}: there is no such file. Copy {TABLE} and edit it.")
    try:
        content = json.loads(source.read_text())
    except ValueError as error:
        raise _wrong(file, f"it is no JSON ({error})") from error
    table = content.get("per_chip_hour") if isinstance(content, dict) else None
    if not isinstance(table, dict):
        raise _wrong(file, "it has no object per_chip_hour")
    for chip, row in table.items():
        if chip not in CHIPS:
            raise _wrong(file, f"{chip!r} is no chip. {nearest(chip, CHIPS)}")
        _check_row(file, chip, row)
    return Prices(table, str(content.get("as_of", "")), str(content.get("currency", "USD")),
                  str(source))


def _check_row(file: str, chip: str, row: Any) -> None:
    for term, price in row.items() if isinstance(row, dict) else [("", row)]:
        number = isinstance(price, (int, float)) and not isinstance(price, bool) and price > 0
        if term not in TERMS or not (number or price is None):
            raise _wrong(
                file, f"{chip}.{term}={price!r} must be one of {', '.join(TERMS)} with a number "
                "above 0, or null"
            )


def _wrong(file: str, why: str) -> UserError:
    return UserError(f"--prices={file or TABLE} is no table of prices: {why}. See {TABLE}.")
