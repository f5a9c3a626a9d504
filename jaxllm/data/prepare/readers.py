"""Documents of text and JSONL files, one at a time, with errors that say where the file is bad."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from etils import epath

from jaxllm.core.errors import UserError, nearest
from jaxllm.core.paths import path
from jaxllm.data.prepare.config import InputConfig
from jaxllm.samples import sample

ENDINGS = {
    "text": (".txt", ".text", ".md"),
    "jsonl": (".jsonl", ".ndjson"),
}
SAMPLE = "sample:"
BOM = b"\xef\xbb\xbf"  # marks UTF-8 on Windows; no part of the text


class Digest(Protocol):
    """A hash of hashlib."""

    def update(self, data: bytes, /) -> None:
        """Takes the next bytes."""


@dataclass(frozen=True)
class InputFile:
    """A file to read."""

    path: epath.Path
    name: str  # as the user wrote it: the same on every machine
    format: str  # text | jsonl
    bytes: int


def find_files(config: InputConfig) -> list[InputFile]:
    """The files that `input.paths` names, each once, in the order given and sorted within a glob.

    Raises:
      UserError: a path that is missing or empty, or whose format cannot be told.
    """
    files: dict[str, InputFile] = {}
    for name in config.paths:
        for found, shown in _expand(name):
            if str(found) not in files:
                size = found.stat().length
                if size == 0:
                    raise UserError(f"input.paths: {shown} is empty. Remove it or fill it.")
                kind = config.format if config.format != "auto" else _format(found, shown)
                files[str(found)] = InputFile(found, shown, kind, size)
    return list(files.values())


def read_documents(
    file: InputFile, config: InputConfig, digest: Digest | None = None
) -> Iterator[str]:
    """The documents of a file, in order; some may be blank. `digest` takes its bytes in passing.

    Raises:
      UserError: binary content, invalid UTF-8, a broken JSONL row or one without the text field.
    """
    if file.format == "jsonl":
        return _rows(file, config.text_field, digest)
    lines = (line for _, line in _lines(file, digest))
    if config.document == "file":
        return iter(["".join(lines)])
    if config.document == "line":
        return (line.rstrip("\r\n") for line in lines)
    return _paragraphs(lines)


def content_digest(files: Iterable[InputFile]) -> str:
    """sha256 of all bytes of the files, one after the other.

    Raises:
      UserError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        with _open(file) as stream:
            while part := stream.read(2**20):
                digest.update(part)
    return digest.hexdigest()


def _expand(name: str) -> list[tuple[epath.Path, str]]:
    """The files behind one entry of `input.paths`, with the names to show."""
    if name.startswith(SAMPLE):
        folder = path(sample(name.removeprefix(SAMPLE)))
        return [(file, f"{name}/{file.name}") for file in sorted(folder.glob("*.txt"))]
    root = path(name)
    if root.is_dir():
        known = tuple(ending for endings in ENDINGS.values() for ending in endings)
        found = [file for file in _walk(root) if file.name.endswith(known)]
        if not found:
            raise UserError(
                f"input.paths: the folder {name} holds no file that ends in {', '.join(known)}. "
                "Name the files, such as FOLDER/*.csv, and set input.format."
            )
    elif root.exists():
        found = [root]
    elif glob.has_magic(name):
        base, found = _glob(root)
        if not found:
            raise UserError(f"input.paths: nothing matches {name!r}. {_neighbours(base)}")
    else:
        near = _neighbours(root.parent, root.name)
        raise UserError(f"input.paths: {name} does not exist. {near}")
    return [(file, str(file)) for file in found]


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
    for item in sorted(folder.iterdir()):
        if item.name.startswith("."):
            continue
        if item.is_dir():
            yield from _walk(item)
        else:
            yield item


def _glob(pattern: epath.Path) -> tuple[epath.Path, list[epath.Path]]:
    """The folder in which the pattern begins, and the files that match it."""
    base = pattern
    while glob.has_magic(str(base)):
        base = base.parent
    if "://" in str(pattern):  # `**` is left to the local disk: in a bucket it lists everything
        found = base.glob(str(pattern)[len(str(base)) :].lstrip("/"))
    else:
        found = [path(name) for name in glob.glob(str(pattern), recursive=True)]
    return base, [file for file in sorted(found) if file.is_file()]


def _neighbours(folder: epath.Path, name: str = "") -> str:
    if not folder.exists():
        return f"Nor does its folder {folder}."
    names = [file.name for file in folder.iterdir()]
    return f"In {folder}: {nearest(name, names)}"


def _format(file: epath.Path, shown: str) -> str:
    for kind, endings in ENDINGS.items():
        if file.name.endswith(endings):
            return kind
    known = ", ".join(ending for endings in ENDINGS.values() for ending in endings)
    raise UserError(
        f"input.paths: the format of {shown} cannot be told from its ending (known: {known}). Set "
        "--config.input.format=text or jsonl."
    )


def _open(file: InputFile) -> BinaryIO:
    try:
        return file.path.open("rb")
    except OSError as error:
        raise UserError(f"{file.name} cannot be read: {error.strerror or error}.") from error


def _lines(file: InputFile, digest: Digest | None) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line, its end included."""
    offset = 0
    with _open(file) as stream:
        for number, line in enumerate(stream, 1):
            if digest:
                digest.update(line)
            if number == 1 and line.startswith(BOM):
                line, offset = line[len(BOM) :], len(BOM)
            if (nul := line.find(b"\0")) >= 0:
                raise UserError(
                    f"{file.name} is a binary file: byte {offset + nul} is 0. Only UTF-8 text can "
                    "be read; convert it first (for UTF-16: iconv -f UTF-16 -t UTF-8)."
                )
            try:
                yield number, line.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{file.name} is no UTF-8 text: byte {offset + error.start} is "
                    f"0x{line[error.start]:02x} (line {number}). Convert the file, for example "
                    "with iconv -f WINDOWS-1252 -t UTF-8."
                ) from error
            offset += len(line)


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Text between blank lines, without the line end before them."""
    current: list[str] = []
    for line in lines:
        if line.strip():
            current.append(line)
        elif current:
            yield "".join(current).rstrip("\r\n")
            current = []
    if current:
        yield "".join(current).rstrip("\r\n")


def _rows(file: InputFile, field: str, digest: Digest | None) -> Iterator[str]:
    for number, line in _lines(file, digest):
        if not line.strip():
            continue
        where = f"{file.name}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where} is no JSON: {error.msg} at column {error.colno}. Every line must be one "
                "object, such as {\"text\": \"…\"}."
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{where} is a JSON {type(row).__name__}, not an object with fields.")
        if not isinstance(row.get(field), str):
            texts = [name for name, value in row.items() if isinstance(value, str)]
            problem = "is no text" if field in row else "is missing"
            raise UserError(
                f"{where}: the field input.text_field={field!r} {problem}. Fields with text there: "
                f"{', '.join(texts) or 'none'}."
            )
        try:
            row[field].encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{where}: the field {field!r} has half a surrogate pair (\\ud83d or the like) at "
                f"character {error.start}, which is no Unicode text. Repair or remove the row."
            ) from error
        yield row[field]
