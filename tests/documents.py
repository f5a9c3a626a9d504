"""Tables in docs/ that tests write and check, between `<!-- NAME -->` and `<!-- /NAME -->`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

MODELS = Path(__file__).resolve().parent.parent / "docs" / "models.md"


def read_table(name: str) -> list[list[str]]:
    """The rows of a table without its head."""
    lines = _parts(MODELS.read_text(), name)[1].strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def write_table(name: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Puts a table in its place."""
    before, _, after = _parts(MODELS.read_text(), name)
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    MODELS.write_text(f"{before}\n{table}\n{after}")


def _parts(text: str, name: str) -> tuple[str, str, str]:
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = text.split(start)
    inside, after = rest.split(end)
    return before + start, inside, end + after
