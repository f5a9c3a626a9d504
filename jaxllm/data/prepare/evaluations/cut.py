"""The pass that cuts out of documents what evaluation sets hold too."""

from __future__ import annotations

import collections
import functools

import numpy as np
from etils import epath

from jaxllm.data.prepare.corpus_pass import One, RunPhase
from jaxllm.data.prepare.documents import Document
from jaxllm.data.prepare.evaluations import decontaminate
from jaxllm.data.prepare.stages.base import Dropped
from jaxllm.data.prepare.store import Arrays, write_arrays
from jaxllm.data.prepare.work import Work


class Decontaminate:
    """Cuts out what evaluation sets hold too; what is left of a document may be several."""

    name, drops = "decontaminate", True

    def __init__(self, settings: decontaminate.Settings):
        self._settings = settings

    def collector(self, work: Work) -> HitCounter:
        return HitCounter(_index(work.folder, self._settings))

    def decide(self, work: Work, level: int, run: RunPhase) -> None:
        counts: dict[int, int] = {}
        for chunk in work.chunks():
            arrays = Arrays(work.index(level, chunk))
            pairs = zip(arrays.read("ngram").tolist(), arrays.read("documents").tolist(),
                        strict=True)
            for ngram, documents in pairs:
                counts[ngram] = counts.get(ngram, 0) + documents
        ignored = _index(work.folder, self._settings).ignored(counts)
        write_arrays(work.found(level, "ignored"), {"ngram": np.asarray(sorted(ignored), "<i8")})

    def applied(self, work: Work, level: int, chunk: int) -> One:
        index = _index(work.folder, self._settings)
        ignored = frozenset(Arrays(work.found(level, "ignored")).read("ngram").tolist())

        def change(number: int, document: Document) -> list[Document] | Dropped:
            pieces = index.clean(document.text, ignored)
            if isinstance(pieces, Dropped) or pieces == [document.text]:
                return pieces if isinstance(pieces, Dropped) else [document]
            return [
                Document(f"{document.id}#{place}", piece, document.source, document.group)
                for place, piece in enumerate(pieces)
            ]

        return One(self.name, change)


class HitCounter:
    """Counts in how many documents of a chunk each n-gram of the evaluation sets is."""

    def __init__(self, index: decontaminate.Index):
        self._index, self._counts = index, collections.Counter()

    def add(self, text: str) -> None:
        """Takes the next document."""
        self._counts.update(self._index.hits(text))

    def save(self, target: epath.PathLike) -> None:
        """Writes the counts."""
        ngrams = sorted(self._counts)
        write_arrays(target, {
            "ngram": np.asarray(ngrams, "<i8"),
            "documents": np.asarray([self._counts[ngram] for ngram in ngrams], "<i8"),
        })


@functools.lru_cache(maxsize=1)
def _index(folder: str, settings: decontaminate.Settings) -> decontaminate.Index:
    """Made once a process; the work folder's name depends on what the evaluation sets hold."""
    return decontaminate.load(settings)
