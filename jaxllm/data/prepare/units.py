"""The input cut into units of work, in order: files, or a part of one whose rows are lines.

Where the cuts fall depends on the files alone, so the same input gives the same units to any
number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from etils import epath

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Part
from jaxllm.data.prepare.readers import InputFile, has_line_rows

UNIT_BYTES = 32 * 2**20
READ_BYTES = 2**20
# What compressed files and UTF-16 begin with: there, a line feed is no end of a row.
NO_LINES = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ", b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Unit:
    """What one worker reads at a time: files that are small together, a large one, or a part."""

    files: tuple[InputFile, ...]
    part: Part | None = None  # of the only file

    @property
    def bytes(self) -> int:
        """How much there is to read."""
        if self.part:
            return self.part.end - self.part.start
        return sum(file.bytes for file in self.files)


def cut(files: Iterable[InputFile], config: InputConfig, unit_bytes: int) -> list[Unit]:
    """The units of the files, each of about `unit_bytes`; the rows of parts are not yet counted.

    Raises:
      UserError: a file cannot be read, or its name is no Unicode text.
    """
    units: list[Unit] = []
    small: list[InputFile] = []
    size = 0
    for file in files:
        _check_name(file)
        if small and size + file.bytes > unit_bytes:
            units.append(Unit(tuple(small)))
            small, size = [], 0
        if file.bytes > unit_bytes:
            units += _cut(file, config, unit_bytes)
        else:
            small.append(file)
            size += file.bytes
    return [*units, Unit(tuple(small))] if small else units


def survey(unit: Unit) -> tuple[str, int]:
    """The sha256 of a unit's bytes, and its line feeds.

    Raises:
      UserError: a file cannot be read.
    """
    digest, lines = hashlib.sha256(), 0
    for whole in unit.files:
        for file in _files(whole.path):
            with _open(file, whole.name) as stream:
                for block in _blocks(stream, unit.part):
                    digest.update(block)
                    lines += block.count(b"\n") if unit.part else 0
    return digest.hexdigest(), lines


def number(units: Iterable[Unit], lines: Iterable[int]) -> list[Unit]:
    """The units with the number of the first row of each part, from the line feeds in each."""
    numbered, row, before = [], 0, None
    for unit, count in zip(units, lines, strict=True):
        row = row if unit.files == before else 0
        numbered.append(replace(unit, part=replace(unit.part, row=row)) if unit.part else unit)
        row, before = row + count, unit.files
    return numbered


def _cut(file: InputFile, config: InputConfig, unit_bytes: int) -> Iterator[Unit]:
    """The parts of a large file, where it can be read in parts."""
    if not has_line_rows(file, config):
        yield Unit((file,))
        return
    with _open(file.path, file.name) as stream:
        if stream.read(6).startswith(NO_LINES):
            yield Unit((file,))
            return
        start = 0
        while start < file.bytes:
            end = _line_end(stream, start + unit_bytes, file.bytes)
            yield Unit((file,), Part(start, end))
            start = end


def _line_end(stream: BinaryIO, place: int, size: int) -> int:
    """The end of the line that holds the byte before `place`."""
    if place >= size:
        return size
    stream.seek(place - 1)
    while block := stream.read(READ_BYTES):
        if (found := block.find(b"\n")) >= 0:
            return stream.tell() - len(block) + found + 1
    return size


def _check_name(file: InputFile) -> None:
    try:
        file.name.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"input.paths: the file name {file.name!a} is no Unicode text, so no document of "
            "it could be named. Rename the file."
        ) from error


def _files(place: epath.Path) -> list[epath.Path]:
    """The files of an input that is a folder, or the input itself."""
    if not place.is_dir():
        return [place]
    return [file for inside in sorted(place.iterdir()) for file in _files(inside)]


def _open(file: epath.Path, name: str) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}.") from error


def _blocks(stream: BinaryIO, part: Part | None) -> Iterator[bytes]:
    left = part.end - part.start if part else None
    if part:
        stream.seek(part.start)
    while left is None or left > 0:
        block = stream.read(READ_BYTES if left is None else min(READ_BYTES, left))
        if not block:
            return
        left = None if left is None else left - len(block)
        yield block
