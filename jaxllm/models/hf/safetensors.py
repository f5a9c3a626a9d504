"""safetensors files, memory-mapped: tensors are views, of files that are read or written.

The format (huggingface/safetensors): u64 length of a JSON header, the header, then the tensors'
bytes. A header says for each name its dtype, shape and [begin, end) in those bytes.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from jaxllm.core.errors import UserError
from jaxllm.core.paths import atomic_write_text, in_bucket, make_directory, path, unwritable

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2), "I64": np.dtype("<i8"), "U64": np.dtype("<u8"),
    "I32": np.dtype("<i4"), "U32": np.dtype("<u4"), "I16": np.dtype("<i2"), "U16": np.dtype("<u2"),
    "I8": np.dtype("i1"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000  # bytes, the format's own limit
LFS = b"version https://git-lfs"  # what a file that was not fetched begins with
UNNAMES = ("", ".", "..")
READ_BYTES = 2**20  # of a file read at a time
PICKLES = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|h5|msgpack)$")


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a folder by name; reading one maps its pages and no others."""

    def __init__(self, folder: str | os.PathLike, file: str = ""):
        """Opens model.safetensors, or the shards that the index names, or `file` alone.

        Raises:
          UserError: there is no safetensors file, only a pickle; or a file is not whole.
        """
        self.folder = local(folder)
        self._views: dict[str, np.ndarray] = {}
        self._maps: list[tuple[int, mmap.mmap, Any]] = []  # address, mapping, open file
        self.metadata: dict[str, str] = {}  # what the files say of themselves
        for name in [file] if file else self._files():
            self._open(name)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def fetch(self, view: np.ndarray) -> None:
        """Reads the part of a file that a view spans, in large pieces.

        Its pages then are in memory when the view is used; left to page faults, a disk gives a
        fifth of its rate.
        """
        begin, end = np.lib.array_utils.byte_bounds(view)
        spare = bytearray(min(READ_BYTES, end - begin))
        for address, mapped, handle in self._maps:
            if address <= begin and end <= address + len(mapped):
                for offset in range(begin - address, end - address, len(spare)):
                    os.preadv(handle.fileno(), [spare], offset)

    def forget(self) -> None:
        """Gives the pages read so far back; the tensors stay readable."""
        for _, mapped, _ in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)

    def _files(self) -> list[str]:
        if (self.folder / INDEX).exists():
            try:
                names = sorted(set(json.loads((self.folder / INDEX).read_text())["weight_map"]
                                   .values()))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise UserError(
                    f"{self.folder / INDEX} is no index of shards ({type(error).__name__}): "
                    "download it again."
                ) from error
            for name in names:
                # a name is a file of this folder, never a path out of it
                if not isinstance(name, str) or os.path.basename(name) != name or name in UNNAMES:
                    raise UserError(
                        f"{self.folder / INDEX} names {name!r}, which is no plain file name: the "
                        "folder is not to be trusted."
                    )
                if not (self.folder / name).exists():
                    raise UserError(
                        f"{self.folder} lacks {name}, which {INDEX} names: download it again."
                    )
            return names
        if (self.folder / SINGLE).exists():
            return [SINGLE]
        others = sorted(p.name for p in self.folder.iterdir())
        pickles = [name for name in others if PICKLES.match(name)]
        if pickles:
            raise UserError(
                f"{self.folder} has its weights in {pickles[0]} only, a pickle, which can run any "
                "program when it is opened: it is not read. Save the model as safetensors "
                "(transformers: model.save_pretrained(folder)), or download model.safetensors."
            )
        raise UserError(
            f"{self.folder} has no {SINGLE} and no {INDEX}. Files there: "
            f"{', '.join(others[:10]) or 'none'}."
        )

    def _open(self, name: str) -> None:
        file = self.folder / name
        size = os.path.getsize(file)
        handle = open(file, "rb")  # noqa: SIM115 (`fetch` reads from it)
        head = handle.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else LONGEST_HEADER
        if head == LFS[:8]:
            raise UserError(
                f"{file} is a pointer of Git LFS, not the weights. Fetch them: git lfs install, "
                f"then `git lfs pull` in {self.folder}."
            )
        if length > min(LONGEST_HEADER, size - 8):
            raise _damaged(file, "it ends before its header does")
        try:
            header = json.loads(handle.read(length))
        except ValueError as error:
            raise _damaged(file, "its header is no JSON") from error
        if not isinstance(header, dict):
            raise _damaged(file, "its header is no JSON object")
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        address = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
        self._maps.append((address, mapped, handle))
        self.metadata |= header.pop("__metadata__", None) or {}
        for tensor, entry in header.items():
            if tensor in self._views:
                raise _damaged(file, f"it holds {tensor} a second time")
            self._views[tensor] = _view(file, mapped, 8 + length, size, tensor, entry)


def _view(file, mapped, base: int, size: int, name: str, entry: Any) -> np.ndarray:
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        count = math.prod(shape)
        known = all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(file, f"its header does not describe {name}") from error
    if dtype not in DTYPES:
        raise UserError(
            f"{file}: {name} has dtype {dtype}, which is not read. Known: {', '.join(DTYPES)}."
        )
    if not known or end - begin != count * DTYPES[dtype].itemsize:
        raise _damaged(file, f"the bytes of {name} do not fit its shape {list(shape)}")
    if base + end > size:
        raise _damaged(
            file, f"it ends after {size:,} bytes, in the middle of {name}, which ends at "
            f"{base + end:,}"
        )
    return np.frombuffer(mapped, DTYPES[dtype], count, base + begin).reshape(shape)


def local(folder: str | os.PathLike) -> epath.Path:
    """The path of a folder whose files can be mapped.

    Raises:
      UserError: it is in a bucket.
    """
    if in_bucket(folder):
        raise UserError(
            f"{folder}: a Hugging Face folder is mapped into memory and so must be on a local "
            "disk. Copy it first (gcloud storage cp -r), and give the copy."
        )
    return path(folder)


def _damaged(file, reason: str) -> UserError:
    return UserError(f"{file} is damaged or truncated: {reason}. Download it again.")


class Writer:
    """Files of tensors of known shapes, mapped: what is put into a view is in the file."""

    def __init__(
        self, folder: str | os.PathLike,
        tensors: Mapping[str, tuple[Sequence[int], np.dtype]], shard_bytes: int = 5 * 10**9,
        file: str = "", metadata: Mapping[str, str] | None = None,
    ):
        """Plans the shards, in the order of `tensors`, and makes the files at their full length.

        With `file` there is one of that name. `metadata` is what each says of itself.

        Raises:
          UserError: the folder cannot be written, or the disk has not the room.
        """
        self._folder = make_directory(local(folder))
        self._views: dict[str, np.ndarray] = {}
        self._maps: list[mmap.mmap] = []
        self._metadata = {"format": "pt", **(metadata or {})}
        sizes = {n: math.prod(shape) * dtype.itemsize for n, (shape, dtype) in tensors.items()}
        shards: list[list[str]] = [[]]
        used = 0
        for name, size in sizes.items():
            if not file and shards[-1] and used + size > shard_bytes:
                shards.append([])
                used = 0
            shards[-1].append(name)
            used += size
        count, places = len(shards), {}
        for number, names in enumerate(shards, 1):
            shard = f"model-{number:05d}-of-{count:05d}.safetensors"
            shard = shard if count > 1 else file or SINGLE
            self._make(shard, {name: tensors[name] for name in names})
            places.update(dict.fromkeys(names, shard))
        if count > 1:
            index = {
                "metadata": {"total_size": sum(sizes.values())},
                "weight_map": {name: places[name] for name in sorted(places)},
            }
            atomic_write_text(self._folder / INDEX, json.dumps(index, indent=2) + "\n")

    def __getitem__(self, name: str) -> np.ndarray:
        """The tensor's place in its file, to be written into."""
        return self._views[name]

    def release(self) -> None:
        """Lets go of the pages written so far; the system writes them when it likes."""
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)

    def sync(self) -> None:
        """Waits until everything is on disk."""
        for mapped in self._maps:
            mapped.flush()

    def _make(self, file: str, tensors: Mapping[str, tuple[Sequence[int], np.dtype]]) -> None:
        header, end = {"__metadata__": self._metadata}, 0
        for name, (shape, dtype) in tensors.items():
            begin, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {
                "dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end],
            }
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)  # tensors begin at a multiple of 8
        base = 8 + len(encoded)
        try:
            with open(self._folder / file, "w+b") as handle:
                # the room is taken now: a mapped file that meets a full disk kills the process
                os.posix_fallocate(handle.fileno(), 0, base + end)
                handle.write(struct.pack("<Q", len(encoded)) + encoded)
                handle.flush()
                mapped = mmap.mmap(handle.fileno(), base + end)
        except OSError as error:
            raise unwritable(self._folder / file, error) from error
        self._maps.append(mapped)
        for name, (shape, dtype) in tensors.items():
            begin = base + header[name]["data_offsets"][0]
            flat = np.frombuffer(mapped, dtype, math.prod(shape), begin)
            self._views[name] = flat.reshape(shape)
