"""Files that the phases of `prepare` leave to one another: documents, and numpy arrays by name.

Each appears whole under its name or not at all, so that a process may die at any moment, and is
read in ranges, so that none has to fit into memory. They are private to one preparation and go
when it is done.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

import numpy as np
from etils import epath

from jaxllm.core.paths import path, unwritable
from jaxllm.data.prepare.documents import Document

LENGTHS = struct.Struct("<IIII")  # bytes of a document's id, source, group and text
COUNT = struct.Struct("<Q")
FLUSH_BYTES = 2**20


@contextlib.contextmanager
def whole(target: epath.PathLike) -> Iterator[BinaryIO]:
    """A stream to a file that appears under its name when the `with` ends without an error.

    Raises:
      UserError: it cannot be written, or the disk is full.
    """
    target = path(target)
    temporary = target.parent / f".{target.name}.{secrets.token_hex(4)}"
    try:
        with temporary.open("wb") as stream:
            yield stream
        temporary.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(target, error) from error
        raise


class DocumentWriter:
    """Writes documents one after the other, their places last."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._buffer, self._place = stream, bytearray(), 0
        self._places: list[int] = []

    def add(self, document: Document) -> None:
        """Appends a document."""
        parts = [document.id, document.source, document.group, document.text]
        encoded = [part.encode() for part in parts]
        self._places.append(self._place)
        record = LENGTHS.pack(*map(len, encoded)) + b"".join(encoded)
        self._place += len(record)
        self._buffer += record
        if len(self._buffer) >= FLUSH_BYTES:
            self._stream.write(self._buffer)
            self._buffer.clear()

    def finish(self) -> None:
        """Writes what makes single documents reachable."""
        self._stream.write(self._buffer)
        self._stream.write(np.asarray([*self._places, self._place], "<u8").tobytes())
        self._stream.write(COUNT.pack(len(self._places)))


def read_documents(file: epath.PathLike) -> Iterator[Document]:
    """The documents of a file that DocumentWriter wrote, in order."""
    with path(file).open("rb") as stream:
        places = _places(stream)
        stream.seek(0)
        for _ in range(len(places) - 1):
            lengths = LENGTHS.unpack(stream.read(LENGTHS.size))
            yield _document(stream.read(sum(lengths)), lengths)


def read_some(file: epath.PathLike, numbers: Iterable[int]) -> list[Document]:
    """Some documents of a file, by their numbers in it."""
    found = []
    with path(file).open("rb") as stream:
        places = _places(stream)
        for number in numbers:
            stream.seek(int(places[number]))
            lengths = LENGTHS.unpack(stream.read(LENGTHS.size))
            found.append(_document(stream.read(sum(lengths)), lengths))
    return found


def _places(stream: BinaryIO) -> np.ndarray:
    end = stream.seek(-COUNT.size, 2)
    (count,) = COUNT.unpack(stream.read(COUNT.size))
    stream.seek(end - 8 * (count + 1))
    return np.frombuffer(stream.read(8 * (count + 1)), "<u8")


def _document(record: bytes, lengths: tuple[int, ...]) -> Document:
    ends = [0, *itertools.accumulate(lengths)]
    name, source, group, text = (
        record[begin:end].decode() for begin, end in itertools.pairwise(ends)
    )
    return Document(name, text, source, group)


def write_arrays(file: epath.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes one-dimensional arrays into a file."""
    header, place = {}, 0
    for name, values in arrays.items():
        header[name] = [values.dtype.str, len(values), place]
        place += values.nbytes
    text = json.dumps(header).encode()
    with whole(file) as stream:
        stream.write(COUNT.pack(len(text)) + text)
        for values in arrays.values():
            stream.write(np.ascontiguousarray(values).tobytes())


class Arrays:
    """The arrays of a file that write_arrays wrote; reads no more of them than is asked for."""

    def __init__(self, file: epath.PathLike):
        self._file = path(file)
        with self._file.open("rb") as stream:
            (size,) = COUNT.unpack(stream.read(COUNT.size))
            self._header = json.loads(stream.read(size))
        self._begin = COUNT.size + size

    def read(self, name: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        """An array, or its range."""
        kind, length, place = self._header[name]
        dtype = np.dtype(kind)
        end = length if end is None else end
        with self._file.open("rb") as stream:
            stream.seek(self._begin + place + begin * dtype.itemsize)
            return np.frombuffer(stream.read((end - begin) * dtype.itemsize), dtype)
