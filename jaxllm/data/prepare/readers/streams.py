"""The bytes of a file, unpacked, and its lines, each held only up to a limit."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.documents import EXCERPT, Part, Rejected
from jaxllm.data.prepare.readers.base import BrokenFile, InputFile, library, too_long

ENDINGS = ("", ".gz", ".zst", ".bz2", ".xz")  # after the format's own
BLOCK = 2**20
ZSTD_BLOCK = 2**12  # a packed byte is at most 32 KiB unpacked: 128 MiB from a block made to harm
BOM = b"\xef\xbb\xbf"  # marks UTF-8 on Windows; no part of the text
UTF16 = (b"\xff\xfe", b"\xfe\xff")


def open_file(file: InputFile) -> BinaryIO:
    """The file as it is stored.

    Raises:
      UserError: it cannot be opened; later on, while reading: the disk or the network failed.
    """
    with _told(file):
        return io.BufferedReader(_Source(file.path.open("rb"), file), BLOCK)


@contextlib.contextmanager
def _told(file: InputFile) -> Iterator[None]:
    """What goes wrong below the file's content is the user's to mend. Clients of buckets raise
    errors of many classes, not all of them OSErrors."""
    try:
        yield
    except Exception as error:
        reason = getattr(error, "strerror", "") or str(error) or type(error).__name__
        raise UserError(
            f"{file.name} cannot be read: {reason}. Check the disk, the network and your rights, "
            "then repeat the command."
        ) from error


class _Source(io.RawIOBase):
    """A file's stream whose failures are UserErrors, to be told from content that is damaged."""

    def __init__(self, stream: BinaryIO, file: InputFile):
        self._stream, self._file = stream, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        with _told(self._file):
            return self._stream.readinto(buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextlib.contextmanager
def open_stream(file: InputFile) -> Iterator[BinaryIO]:
    """The file unpacked, where its first bytes show that it is packed, whatever its name.

    Raises:
      UserError: it cannot be opened.
      BrokenFile: while reading: it is cut short or damaged.
    """
    with open_file(file) as source:
        head = source.peek(10)[:10]
        for magic, unpack in UNPACK.items():
            if re.match(magic, head, re.DOTALL):
                with io.BufferedReader(_Blocks(_checked(unpack(source))), BLOCK) as stream:
                    yield stream
                return
        yield source


@contextlib.contextmanager
def open_text(file: InputFile) -> Iterator[BinaryIO]:
    """`open_stream` of UTF-8 text, behind the mark that may stand at its beginning.

    Raises:
      BrokenFile: the mark is that of UTF-16.
    """
    with open_stream(file) as stream:
        head = stream.peek(len(BOM))
        if head.startswith(UTF16):
            raise BrokenFile("utf16", "UTF-16 text: convert it with iconv -f UTF-16 -t UTF-8")
        if head.startswith(BOM):
            stream.read(len(BOM))
        yield stream


def read_lines(
    file: InputFile, limit: int, part: Part | None = None
) -> Iterator[tuple[int, bytes, int]]:
    """Number (from 0) and content of each line, its end included, and 0.

    A line of more than `limit` bytes comes as its beginning, and instead of 0 its size.
    """
    with open_text(file) as stream:
        number, end = (part.row, part.end) if part else (0, None)
        if part and part.start:
            stream.seek(part.start)
        left = end - stream.tell() if end is not None else 1
        while left > 0 and (line := stream.readline(limit + 1)):
            size, excess = len(line), 0
            if size > limit and not line.endswith(b"\n"):
                line = line[:EXCERPT]
                size = excess = size + _skip_line(stream)
            if end is not None:
                left -= size
            yield number, line, excess
            number += 1


def read_whole(file: InputFile, limit: int, hint: str = "", text: bool = True) -> bytes | Rejected:
    """All bytes of the file, unless there are more than `limit`."""
    with open_text(file) if text else open_stream(file) as stream:
        data = stream.read(limit + 1)
        if len(data) <= limit:
            return data
        del data
        return too_long(f"{file.name}:0", max(file.bytes, limit + 1), limit, "", hint)


def _skip_line(stream: BinaryIO) -> int:
    """Goes behind the end of the line; gives how many bytes that was."""
    skipped = 0
    while piece := stream.readline(BLOCK):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


class _Blocks(io.RawIOBase):
    """A stream of the bytes of an iterator."""

    def __init__(self, blocks: Iterator[bytes]):
        self._blocks, self._left = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        if not self._left:
            self._left = memoryview(next(self._blocks, b""))
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


def _checked(blocks: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from blocks
    except EOFError as error:
        raise BrokenFile("truncated_archive", "the file ends before its packed data do") from error
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise BrokenFile("broken_archive", str(error)) from error


def _blocks(opened: Callable[[BinaryIO], io.BufferedIOBase]) -> Callable:
    def unpack(source: BinaryIO) -> Iterator[bytes]:
        with opened(source) as stream:
            while block := stream.read1(BLOCK):
                yield block

    return unpack


def _zstd(source: BinaryIO) -> Iterator[bytes]:
    """The library's own stream takes a file that is cut short for a whole one, so the frames, of
    which a file may hold several, are followed here."""
    zstandard = library("zstandard", ".zst files")
    unpacker = zstandard.ZstdDecompressor(max_window_size=2**31)  # as of zstd --long=31
    frame, data = None, b""
    while data := data or source.read(ZSTD_BLOCK):
        frame = frame or unpacker.decompressobj()
        try:
            block = frame.decompress(data)
        except zstandard.ZstdError as error:
            raise BrokenFile("broken_archive", str(error)) from error
        data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        if block:
            yield block
    if frame:
        raise EOFError


UNPACK = {
    rb"\x1f\x8b": _blocks(lambda source: gzip.GzipFile(fileobj=source)),
    rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18": _zstd,  # a frame, or one to be skipped
    rb"BZh[1-9]1AY&SY": _blocks(bz2.BZ2File),
    rb"\xfd7zXZ\x00": _blocks(lzma.LZMAFile),
}
