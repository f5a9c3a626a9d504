"""The work folder of a preparation: what its phases are given, where they leave what, and when
they are done.

A phase is a function of one item (a unit of the input, a chunk of documents, a range of hashes, a
shard). It writes whole files and gives a small result, whose file is the mark that the item is
done. The folder's name is a fingerprint of settings and input, so that a command that is given
again goes on where it was, and one with other settings begins anew.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from etils import epath

from jaxllm.core.paths import atomic_write_text, make_directory, path
from jaxllm.data.prepare.config import PrepareConfig

Result = dict[str, Any]
CHUNKS = "chunks.json"


@dataclass(frozen=True)
class Work:
    """What every phase is given."""

    folder: str
    output: str  # the folder of the prepared data
    config: PrepareConfig
    unit_bytes: int  # of text in a chunk of documents, about

    def documents(self, level: int, chunk: str) -> epath.Path:
        """Documents as pass `level` is given them; the last level is what is kept."""
        return self._file(f"documents-{level}", chunk)

    def index(self, level: int, chunk: str) -> epath.Path:
        """What pass `level` needs to know of a chunk of the documents that it is given."""
        return self._file(f"index-{level}", chunk)

    def found(self, level: int, name: str) -> epath.Path:
        """What pass `level` decided."""
        return self._file(f"found-{level}", name)

    def rejected(self, unit: str) -> epath.Path:
        """The records of a unit that could not be read."""
        return self._file("rejected", unit)

    def samples(self, name: str) -> epath.Path:
        """Documents to show, chosen in one unit or chunk."""
        return self._file("samples", name)

    def clusters(self, level: int) -> epath.Path:
        """Documents to show that pass `level` found to be alike."""
        return self._file("clusters", f"{level:02d}")

    def groups(self, level: int) -> epath.Path:
        """How many groups of documents that are alike pass `level` found."""
        return self._file("groups", f"{level:02d}")

    def training(self, chunk: str) -> epath.Path:
        """Documents of a chunk that the tokenizer is trained on."""
        return self._file("training", chunk)

    def tokens(self, chunk: str, split: str) -> epath.Path:
        """The token ids of a chunk's documents that are in a split, one after the other."""
        return self._file("tokens", f"{chunk}.{split}")

    def lengths(self, chunk: str, split: str) -> epath.Path:
        """How many tokens each of these documents has."""
        return self._file("tokens", f"{chunk}.{split}.lengths")

    @property
    def tokenizer(self) -> epath.Path:
        """The folder of the tokenizer."""
        return path(self.folder) / "tokenizer"

    def make_folders(self, passes: int) -> None:
        """Makes the folders that files are written to."""
        names = ["rejected", "samples", "clusters", "groups", "training", "tokens"]
        names.append(f"documents-{passes}")
        for level in range(passes):
            names += [f"documents-{level}", f"index-{level}", f"found-{level}"]
        for name in names:
            make_directory(path(self.folder) / name)

    def chunks(self) -> tuple[str, ...]:
        """The names of all chunks, in the order of the corpus."""
        return _chunks(str(path(self.folder) / CHUNKS))

    def write_chunks(self, names: list[str]) -> None:
        """Notes the chunks that the first phase made."""
        atomic_write_text(path(self.folder) / CHUNKS, json.dumps(names))

    def forget(self, level: int) -> None:
        """Removes what pass `level` was given, once the next level is there."""
        for name in (f"documents-{level}", f"index-{level}", f"found-{level}"):
            folder = path(self.folder) / name
            if folder.exists():
                folder.rmtree()

    def _file(self, folder: str, name: str) -> epath.Path:
        return path(self.folder) / folder / name


def whole_files(folder: epath.Path) -> list[epath.Path]:
    """The files of a folder by name, without those that a killed process left unfinished."""
    if not folder.exists():  # a bucket has no empty folders
        return []
    return sorted(file for file in folder.iterdir() if not file.name.startswith("."))


@functools.lru_cache(maxsize=1)
def _chunks(file: str) -> tuple[str, ...]:
    return tuple(json.loads(path(file).read_text()))


@dataclass(frozen=True)
class Task:
    """A function of one item, in a phase."""

    work: Work
    phase: str
    index: int
    function: Callable[[Work, Any], Result]  # of a module, so that another process finds it
    item: Any
    bytes: int  # of input, about: whether the work is worth another process

    @property
    def marker(self) -> epath.Path:
        """The file that holds the result, once it is there."""
        return path(self.work.folder) / "done" / self.phase / f"{self.index:07d}.json"


def execute(task: Task) -> None:
    """Does the task and leaves its mark."""
    result = task.function(task.work, task.item)
    atomic_write_text(task.marker, json.dumps(result))
