"""The stages as passes over the corpus: all document stages are one, each of the others is one.

A pass that compares documents collects an index of each chunk of them while the phase before
writes them, decides in phases of its own, and is then applied chunk by chunk. So the corpus is
read and written once for each pass, and no process ever holds more than a range of the indexes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import xxhash

from jaxllm.core.paths import atomic_write_text
from jaxllm.data.prepare.config import CORPUS_STAGES, PrepareConfig
from jaxllm.data.prepare.corpus_pass import One, Pass, RunPhase
from jaxllm.data.prepare.document_stages import DocumentStages
from jaxllm.data.prepare.documents import Document, replaced
from jaxllm.data.prepare.duplicates import exact, groups, near
from jaxllm.data.prepare.flow import SAMPLE_CHARACTERS
from jaxllm.data.prepare.stages.base import Dropped
from jaxllm.data.prepare.store import Arrays, read_some, write_arrays
from jaxllm.data.prepare.work import Result, Work, whole_files

RANGE_DOCUMENTS = 2**18  # whose clusters a worker looks at to choose which to keep


def passes(config: PrepareConfig) -> list[Pass]:
    """Those that the configuration asks for, in order."""
    found: list[Pass] = []
    if any(name not in CORPUS_STAGES for name in config.stages):
        found.append(DocumentStages(config))
    if "exact" in config.stages:
        found.append(Exact(config.exact, of_parts=False))
        if config.exact.parts != "none":
            found.append(Exact(config.exact, of_parts=True))
    if "near" in config.stages or config.split.by == "cluster":
        found.append(Near(config.near, "near" in config.stages, config.split.by == "cluster"))
    if "decontaminate" in config.stages:
        from jaxllm.data.prepare.evaluations.cut import Decontaminate

        found.append(Decontaminate(config.decontaminate))
    return found


class Exact:
    """Drops documents whose text came before, or cuts out parts of documents that did."""

    def __init__(self, settings: exact.Settings, of_parts: bool):
        self._settings, self._of_parts = settings, of_parts
        self.name, self.drops = f"exact_{settings.parts}s" if of_parts else "exact", True

    def collector(self, work: Work) -> exact.Writer:
        return exact.Writer(self._settings, self._of_parts)

    def decide(self, work: Work, level: int, run: RunPhase) -> None:
        indexes = [work.index(level, chunk) for chunk in work.chunks()]
        count = exact.ranges(sum(exact.hashes(index) for index in indexes))
        what = self._settings.parts if self._of_parts else "document"
        found = run(f"finding equal {what}s", f"found-{level}", find_repeated,
                    [(level, index, count) for index in range(count)])
        largest = [group for one in found for group in one["largest"]]
        largest.sort(key=lambda group: (-group[0], group[1]))
        if not self._of_parts:
            counts = groups.merged(one["counts"] for one in found)
            show_clusters(work, level, self.name, largest[: exact.GROUPS], counts)

    def applied(self, work: Work, level: int, chunk: int) -> One:
        repeats = exact.of_unit(whole_files(work.found(level, "")), chunk)
        without = exact.cutter(self._settings, repeats)

        def change(number: int, document: Document) -> list[Document] | Dropped:
            if not self._of_parts:
                return Dropped("duplicate") if number in repeats else [document]
            text = without(number, document.text)
            if not text.strip():
                return Dropped(exact.EMPTIED)
            return [replaced(document, text)]

        return One(self.name, change)


def find_repeated(work: Work, item: tuple[int, int, int]) -> Result:
    """One range of the hashes of a pass."""
    level, index, count = item
    sources = [work.index(level, chunk) for chunk in work.chunks()]
    target = work.found(level, f"{index:05d}")
    largest, counts = exact.repeated(sources, index, count, target)
    return {"largest": largest, "counts": counts}


class Near:
    """Drops near-duplicates; where the split is by cluster, notes the clusters."""

    name = "near"

    def __init__(self, settings: near.Settings, drop: bool, group: bool):
        self._settings, self.drops, self._group = settings, drop, group

    def collector(self, work: Work) -> near.Writer:
        return near.Writer(self._settings)

    def decide(self, work: Work, level: int, run: RunPhase) -> None:
        index = sidecars(work, level)
        write_arrays(work.found(level, "starts"), {"start": index.starts})
        count = near.parts(index)
        run("comparing near-duplicates", f"pairs-{level}", find_pairs,
            [(level, part, count) for part in range(count)])
        if not work.found(level, "roots").exists():
            pairs = (_pairs(work, level, part) for part in range(count))
            roots = near.clusters(pairs, index.documents)
            show_clusters(work, level, self.name, *find_clusters(roots, index.starts))
            write_arrays(work.found(level, "roots"), {"root": roots})
        if self.drops:
            ends = range(0, index.documents, RANGE_DOCUMENTS)
            run("choosing among near-duplicates", f"drops-{level}", find_drops,
                [(level, begin, min(begin + RANGE_DOCUMENTS, index.documents)) for begin in ends])
            files = [work.found(level, f"drops-{begin:012d}") for begin in ends]
            numbers = [Arrays(file).read("number") for file in files]
            merged = np.sort(np.concatenate([np.zeros(0, np.int64), *numbers]))
            places = np.searchsorted(merged, index.starts)
            write_arrays(work.found(level, "drops"), {"number": merged, "places": places})

    def applied(self, work: Work, level: int, chunk: int) -> One:
        starts = Arrays(work.found(level, "starts"))  # of all chunks, of which two are needed
        begin, end = starts.read("start", chunk, chunk + 2).tolist()
        dropped: set[int] = set()
        if self.drops:
            drops = Arrays(work.found(level, "drops"))
            places = drops.read("places", chunk, chunk + 2).tolist()
            dropped = set((drops.read("number", *places) - begin).tolist())
        groups = self._groups(work, level, begin, end) if self._group else {}

        def change(number: int, document: Document) -> list[Document] | Dropped:
            if number in dropped:
                return Dropped("near_duplicate")
            if not self._group:
                return [document]
            group = groups.get(number) or group_of(document.text)
            return [Document(document.id, document.text, document.source, group)]

        return One(self.name, change)

    def _groups(self, work: Work, level: int, begin: int, end: int) -> dict[int, str]:
        """The group of each document that is not the first of its cluster."""
        roots = Arrays(work.found(level, "roots")).read("root", begin, end)
        others = np.flatnonzero(roots != np.arange(begin, end))
        firsts, which = np.unique(roots[others], return_inverse=True)
        names = [group_of(text) for text in texts_of(work, level)(firsts)]
        return dict(zip(others.tolist(), (names[place] for place in which.tolist()), strict=True))


def find_clusters(
    roots: np.ndarray, starts: np.ndarray
) -> tuple[list[exact.Group], groups.Counts]:
    """The clusters to show and counts of all, from the first of each document's cluster."""
    firsts, sizes = np.unique(roots[roots != np.arange(len(roots))], return_counts=True)
    largest = []
    for place in np.lexsort((firsts, -sizes))[: exact.GROUPS].tolist():
        members = np.flatnonzero(roots == firsts[place])[: exact.MEMBERS]
        chunks = np.searchsorted(starts, members, side="right") - 1
        largest.append((int(sizes[place]) + 1,
                        list(zip(chunks.tolist(), (members - starts[chunks]).tolist(),
                                 strict=True))))
    return largest, groups.count(sizes + 1)


def show_clusters(
    work: Work, level: int, stage: str, largest: Sequence[exact.Group], counts: groups.Counts
) -> None:
    """Writes what a pass found to be alike: counts, and a line for each of the largest groups."""
    lines = []
    for size, members in largest:
        found = [
            read_some(work.documents(level, work.chunks()[chunk]), [number])[0]
            for chunk, number in members
        ]
        lines.append(json.dumps({
            "stage": stage, "documents": size,
            "first": [{"id": one.id, "text": one.text[:SAMPLE_CHARACTERS]} for one in found],
        }, ensure_ascii=False) + "\n")
    atomic_write_text(work.clusters(level), "".join(lines))
    atomic_write_text(work.groups(level), json.dumps({stage: counts}))


def group_of(text: str) -> str:
    """The group of a cluster, from the text of its first document: others may come and go."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def find_pairs(work: Work, item: tuple[int, int, int]) -> Result:
    """The near-duplicates among one part of the band keys."""
    level, part, count = item
    pairs = near.duplicates(
        sidecars(work, level), part, count, texts_of(work, level), work.config.near
    )
    write_arrays(work.found(level, f"pairs-{part:05d}"), {"pair": pairs.reshape(-1)})
    return {"pairs": len(pairs)}


def find_drops(work: Work, item: tuple[int, int, int]) -> Result:
    """What to drop of the clusters whose first documents lie in one range."""
    level, begin, end = item
    roots = Arrays(work.found(level, "roots")).read("root")
    numbers = near.drops(
        roots, sidecars(work, level), texts_of(work, level), work.config.near, begin, end
    )
    write_arrays(work.found(level, f"drops-{begin:012d}"), {"number": numbers})
    return {"dropped": len(numbers)}


def sidecars(work: Work, level: int) -> near.Sidecars:
    """The near-duplicate index of the whole corpus."""
    return near.Sidecars([work.index(level, chunk) for chunk in work.chunks()], work.config.near)


def texts_of(work: Work, level: int) -> near.Texts:
    """What gives the texts of documents back, by their numbers in the corpus."""
    starts = Arrays(work.found(level, "starts")).read("start")
    chunks = work.chunks()

    def texts(numbers: np.ndarray) -> list[str]:
        edges = np.searchsorted(numbers, starts)
        found: list[str] = []
        for chunk in np.flatnonzero(np.diff(edges)).tolist():
            wanted = numbers[edges[chunk] : edges[chunk + 1]] - starts[chunk]
            some = read_some(work.documents(level, chunks[chunk]), wanted.tolist())
            found += [document.text for document in some]
        return found

    return texts


def _pairs(work: Work, level: int, part: int) -> np.ndarray:
    return Arrays(work.found(level, f"pairs-{part:05d}")).read("pair").reshape(-1, 2)

