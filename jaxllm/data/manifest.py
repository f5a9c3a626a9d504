"""manifest.json: what a prepared folder holds and how it was made; written last, so it vouches.

It says nothing of the time, the machine or the folder's own place: the same input and settings
give the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import Any

from jaxllm.core.errors import UserError
from jaxllm.core.paths import atomic_write_text, path

FILE = "manifest.json"
VERSION = 2


@dataclass(frozen=True)
class Shard:
    """An ArrayRecord file of a split."""

    name: str
    sha256: str
    bytes: int
    records: int
    tokens: int


@dataclass(frozen=True)
class Split:
    """Counts of what went into a split, and its shards in order."""

    documents: int
    characters: int
    bytes: int  # of UTF-8, for bits per byte
    tokens: int  # end-of-document tokens included
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Amount:
    """An amount of text."""

    documents: int
    characters: int
    bytes: int  # of UTF-8


@dataclass(frozen=True)
class StageFlow:
    """What a stage of the preparation was given, what it passed on, and why not the rest."""

    stage: str
    before: Amount
    after: Amount
    dropped: dict[str, Amount]  # by reason
    changes: dict[str, int]  # by name, such as the addresses that were masked


@dataclass(frozen=True)
class Groups:
    """Groups of documents that a stage found to be equal, or nearly so."""

    groups: int
    documents: int  # in all of them, the one of each that is kept included
    sizes: dict[str, int]  # groups by the power of two above their size


@dataclass(frozen=True)
class TokenizerEntry:
    """The tokenizer that wrote the ids; its files are in the folder `tokenizer`."""

    kind: str
    hash: str
    vocab_size: int


@dataclass(frozen=True)
class Inputs:
    """What was read, in short."""

    files: int
    bytes: int
    digest: str  # sha256 of the files' names and sizes
    content: str  # sha256 of the sha256 of their parts' bytes
    beside: str = ""  # sha256 of what stages read beside them: evaluation sets, lists of words


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    version: int
    jaxllm: str
    settings: dict[str, Any]  # of every stage that ran, as configured
    inputs: Inputs
    rejected: dict[str, int]  # records that could not be read, by reason
    flow: tuple[StageFlow, ...]  # what each stage let through, in order
    sources: dict[str, Amount]  # how much of what was kept is from where, the largest first
    lengths: dict[str, int]  # documents kept, by the power of two above their characters
    token_lengths: dict[str, int]  # the same by tokens; a document cut by the split counts twice
    groups: dict[str, Groups]  # of documents that are alike, by the stage that looked for them
    tokenizer: TokenizerEntry
    block_tokens: int
    splits: dict[str, Split]

    def write(self, folder: str | os.PathLike) -> None:
        """Writes manifest.json into the folder."""
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"
        atomic_write_text(path(folder) / FILE, text)


def read_manifest(folder: str | os.PathLike, field: str = "") -> Manifest:
    """The manifest of a prepared folder; `field` is named in the errors.

    Raises:
      UserError: the folder was not (completely) prepared, or by another version, or its manifest
        is damaged.
    """
    file = path(folder) / FILE
    where = f"{field}={str(folder)!r}" if field else str(folder)
    if not file.exists():
        raise UserError(f"{where} holds no prepared data: it has no {FILE}. {_near(path(folder))}")
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise _damaged(file, f"it is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise _damaged(file, "it holds no object with fields")
    if content.get("version") != VERSION:
        raise UserError(
            f"{where} was prepared in format {content.get('version')}, and this version of jaxllm "
            f"reads format {VERSION}. Run `jaxllm prepare` again with --overwrite."
        )
    try:
        return _from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(file, f"a field is missing or wrong ({error})") from error


def _from_json(content: dict[str, Any]) -> Manifest:
    splits = {
        name: Split(**{**split, "shards": tuple(Shard(**shard) for shard in split["shards"])})
        for name, split in content["splits"].items()
    }
    return Manifest(**{
        **content, "splits": splits, "inputs": Inputs(**content["inputs"]),
        "flow": tuple(_stage_flow(row) for row in content["flow"]),
        "sources": _amounts(content["sources"]),
        "groups": {name: Groups(**one) for name, one in content["groups"].items()},
        "tokenizer": TokenizerEntry(**content["tokenizer"]),
    })


def _stage_flow(row: dict[str, Any]) -> StageFlow:
    amounts = {name: Amount(**row[name]) for name in ("before", "after")}
    return StageFlow(**{**row, **amounts, "dropped": _amounts(row["dropped"])})


def _amounts(content: dict[str, Any]) -> dict[str, Amount]:
    return {name: Amount(**counts) for name, counts in content.items()}


def _damaged(file, why: str) -> UserError:
    return UserError(
        f"{file} is damaged: {why}. Copy it again, or run `jaxllm prepare` again with --overwrite."
    )


# The folders that our recipes name, with the recipe that prepares each.
COMMANDS = {
    "data/shakespeare": "configs/data/shakespeare.py:special",
    "data/shakespeare_char": "configs/data/shakespeare_char.py",
    "runs/quickstart/data/shakespeare": "configs/data/shakespeare.py",
    "runs/quickstart/data/fomc": "configs/data/fomc.py",
}


def _near(folder) -> str:
    """The command that prepares a folder, or prepared ones beside, above or below it."""
    if recipe := COMMANDS.get(str(folder)):
        return f"Prepare it: jaxllm prepare --config={recipe} --workdir={folder}"
    places = [folder, folder.parent, folder.parent.parent]
    found: list[str] = []
    for place in places:
        if place.exists() and place.is_dir():
            found += [str(m.parent) for m in place.glob(f"*/{FILE}") if str(m.parent) not in found]
    if found:
        return f"Prepared folders near it: {', '.join(sorted(found)[:8])}."
    return "Write it with `jaxllm prepare --config=configs/data/… --workdir=FOLDER`."
