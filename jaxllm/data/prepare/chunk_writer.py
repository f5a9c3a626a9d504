"""Documents on their way to the next phase, in files of a bounded size."""

from __future__ import annotations

import contextlib

from jaxllm.data.prepare import split
from jaxllm.data.prepare.documents import Document
from jaxllm.data.prepare.flow import Samples, Size, Sum, largest, size_of
from jaxllm.data.prepare.passes import passes
from jaxllm.data.prepare.store import DocumentWriter, whole
from jaxllm.data.prepare.work import Result, Work

KEPT = "kept"  # the stage and reason of a sample that nothing dropped


class ChunkWriter:
    """Writes the documents that pass `level` will be given, and the pass' index of them.

    After the last pass there is no index; there the documents are counted for the manifest.
    """

    def __init__(self, work: Work, level: int, name: str, whole_unit: bool = False):
        """`name` is the unit's, whose chunks get a number; or with `whole_unit` the chunk's."""
        self._work, self._level, self._name, self._one = work, level, name, whole_unit
        following = passes(work.config)[level:]
        self._pass = following[0] if following else None
        self.chunks: list[Result] = []
        self._stack: contextlib.ExitStack | None = None

    def __enter__(self) -> ChunkWriter:
        self._open()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self._close()
        else:
            self._stack.__exit__(kind, error, trace)

    def add(self, document: Document, samples: Samples) -> None:
        """Appends a document."""
        size = size_of(document.text)
        if not self._one and self._bytes and self._bytes + size[1] > self._work.unit_bytes:
            self._close()
            self._open()
        self._bytes += size[1]
        self._writer.add(document)
        if self._collector:
            self._collector.add(document.text)
        if not self._pass:
            self._counts.add(document, size)
            samples.add(KEPT, KEPT, document)

    def _open(self) -> None:
        name = self._name if self._one else f"{self._name}-{len(self.chunks):04d}"
        self._chunk, self._bytes = name, 0
        self._stack = contextlib.ExitStack()
        stream = self._stack.enter_context(whole(self._work.documents(self._level, name)))
        self._writer = DocumentWriter(stream)
        self._counts = Counts(self._work.config.split.validation_share)
        self._collector = self._pass.collector(self._work) if self._pass else None

    def _close(self) -> None:
        self._writer.finish()
        self._stack.close()
        entry: Result = {"name": self._chunk, "bytes": self._bytes}
        if self._collector:
            self._collector.save(self._work.index(self._level, self._chunk))
        if not self._pass:
            entry.update(self._counts.to_json())
        self.chunks.append(entry)


class Counts:
    """What the manifest says of the documents that are kept, and what the splits will hold."""

    def __init__(self, validation_share: float):
        self._share = validation_share
        self._all, self._chosen = Sum(), Sum()
        self._sources: dict[str, Sum] = {}
        self._lengths: dict[int, int] = {}

    def add(self, document: Document, size: Size) -> None:
        """Counts a document."""
        self._all.add(size)
        if split.is_validation(document, self._share):
            self._chosen.add(size)
        self._sources.setdefault(document.source, Sum()).add(size)
        bits = size[0].bit_length()
        self._lengths[bits] = self._lengths.get(bits, 0) + 1

    def to_json(self) -> Result:
        """All documents, those chosen for validation, by source and by length in bits."""
        sources = {name: count.counts for name, count in self._sources.items()}
        return {
            "kept": self._all.counts, "chosen": self._chosen.counts, "sources": largest(sources),
            "lengths": {str(bits): count for bits, count in sorted(self._lengths.items())},
        }
