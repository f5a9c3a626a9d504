"""Programming problems as HumanEval publishes them: a beginning of a program, and its tests."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from etils import epath

from jaxllm.core.errors import UserError
from jaxllm.core.paths import path

COLUMNS = "prompt", "test", "entry_point"  # of HumanEval
ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
FIX = (
    "Name a file of HumanEval's rows (JSON lines or JSON, also gzipped, each with "
    f"{', '.join(COLUMNS)}), or a folder of files that end in {', '.join(ENDINGS)}."
)


@dataclass(frozen=True)
class Problem:
    """A prompt that programs continue, and the tests that they have to pass."""

    prompt: str
    test: str  # source that follows the program and ends without an error where it is right
    name: str = ""

    @classmethod
    def of_humaneval(cls, row: Mapping[str, Any]) -> Problem:
        """A row of HumanEval.

        Raises:
          UserError: a column is missing, or is no text that a file can hold.
        """
        for name in COLUMNS:
            if not isinstance(row.get(name), str):
                raise UserError(
                    f"A problem lacks the text {name!r}: HumanEval's rows have "
                    f"{', '.join(COLUMNS)}."
                )
            if any("\ud800" <= character <= "\udfff" for character in row[name]):
                raise UserError(
                    f"The text {name!r} has half a character (a surrogate without the other): "
                    "write the whole one, or leave it out."
                )
        test = f"{row['test']}\ncheck({row['entry_point']})"
        return cls(row["prompt"], test, str(row.get("task_id", row["entry_point"])))


def read_problems(name: str) -> list[Problem]:
    """The problems of a file of HumanEval's rows, JSON or JSON lines, also gzipped, or of all such
    files in a folder.

    Raises:
      UserError: it cannot be read, holds no problem, or a row is none.
    """
    place = path(name)
    files = [place]
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.name.endswith(ENDINGS))
    elif not place.exists():
        raise UserError(f"--problems={name}: there is no such file or folder. {FIX}")
    problems = [problem for file in files for problem in _of_file(file)]
    if not problems:
        raise UserError(f"--problems={name} holds no problem. {FIX}")
    return problems


def _of_file(file: epath.Path) -> Iterator[Problem]:
    try:
        content = file.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        rows = _rows(content.decode("utf-8-sig"))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--problems: {file} cannot be read ({type(error).__name__}: {reason}). {FIX}"
        ) from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise UserError(f"--problems: row {number} of {file} is no object. {FIX}")
        try:
            yield Problem.of_humaneval(row)
        except UserError as error:
            raise UserError(f"--problems: row {number} of {file}: {error}") from error


def _rows(text: str) -> list[Any]:
    """The rows of JSON lines, or of a JSON list or object."""
    try:
        found = json.loads(text)
    except ValueError:  # several objects
        return list(_lines(text))
    return found if isinstance(found, list) else [found]


def _lines(text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} is no JSON: {error}") from error
