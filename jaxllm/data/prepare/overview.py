"""What a person wants to see of prepared data: the manifest's counts, and documents to look at."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from etils import epath

from jaxllm.core.errors import UserError
from jaxllm.core.paths import path
from jaxllm.data.manifest import Amount, Manifest, read_manifest
from jaxllm.data.prepare.chunk_writer import KEPT
from jaxllm.data.prepare.flow import OTHER_SOURCES
from jaxllm.data.prepare.outcome import CLUSTERS, QUARANTINE, SAMPLES

LANGUAGE = "language_"  # begins the names of changes that count documents by language
Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Sample:
    """The beginning of a document."""

    id: str
    source: str
    characters: int  # of the whole document
    text: str


@dataclass(frozen=True)
class Reason:
    """What a stage did with some of its documents, and a few of them."""

    stage: str
    reason: str  # or "kept", of the stage "kept"
    dropped: Amount
    share: float  # of the documents that the stage was given
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Group:
    """Documents that a stage found to be equal, or nearly so."""

    stage: str
    documents: int
    first: tuple[tuple[str, str], ...]  # ids and beginnings of the texts


@dataclass(frozen=True)
class Rejection:
    """Records that could not be read, and a few of them."""

    reason: str
    records: int
    excerpts: tuple[tuple[str, str], ...]  # ids and beginnings


class Share(NamedTuple):
    """A part of the corpus."""

    name: str
    documents: int
    bytes: int | None
    share: float  # of the bytes, or where they are not known, of the documents


class Length(NamedTuple):
    """Documents whose length is from `low` to `high`."""

    low: int
    high: int
    by_characters: int
    by_tokens: int

    @property
    def label(self) -> str:
        """Such as 256–511."""
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}–{self.high:,}"


@dataclass(frozen=True)
class Overview:
    """What read_overview gives."""

    folder: str
    manifest: Manifest
    kept: Reason
    reasons: tuple[Reason, ...]  # in the order of the stages, the most frequent first
    groups: tuple[Group, ...]  # the largest of each stage, in the order of size
    rejections: tuple[Rejection, ...]
    missing: tuple[str, ...]  # files with documents to look at that are not there


def read_overview(folder: str | os.PathLike, samples: int, field: str = "") -> Overview:
    """What is known of a prepared folder, with at most `samples` documents of each reason.

    Raises:
      UserError: the folder is not prepared, or in another format, or damaged; `field` is named.
    """
    manifest, place = read_manifest(folder, field), path(folder)
    expected = [SAMPLES]
    expected += [CLUSTERS] if any(one.groups for one in manifest.groups.values()) else []
    expected += [QUARANTINE] if manifest.rejected else []
    shown: dict[tuple[str, str], list[Sample]] = {}
    for key, sample in _rows(place / SAMPLES, _sample):
        some = shown.setdefault(key, [])
        if len(some) < samples:
            some.append(sample)
    kept = manifest.flow[-1].after
    read = manifest.flow[0].before.documents
    return Overview(
        str(folder), manifest,
        Reason(KEPT, KEPT, kept, kept.documents / max(read, 1), tuple(shown.get((KEPT, KEPT), ()))),
        tuple(_reasons(manifest, shown)),
        tuple(_rows(place / CLUSTERS, _group)),
        tuple(_rejections(manifest.rejected, place / QUARANTINE, samples)),
        tuple(name for name in expected if not (place / name).exists()),
    )


def _reasons(
    manifest: Manifest, shown: Mapping[tuple[str, str], list[Sample]]
) -> Iterator[Reason]:
    for row in manifest.flow:
        for reason, dropped in sorted(row.dropped.items(), key=lambda one: -one[1].documents):
            some = tuple(shown.get((row.stage, reason), ()))
            share = dropped.documents / max(row.before.documents, 1)
            yield Reason(row.stage, reason, dropped, share, some)


def _rejections(
    counts: Mapping[str, int], file: epath.Path, samples: int
) -> Iterator[Rejection]:
    """The file may be large: it is read until there are enough of each reason."""
    wanted = {reason: min(count, samples) for reason, count in counts.items()}
    found: dict[str, list[tuple[str, str]]] = {reason: [] for reason in counts}
    left = sum(wanted.values())
    for reason, excerpt in _rows(file, _excerpt) if left else ():
        if len(found.get(reason, ())) < wanted.get(reason, 0):
            found[reason].append(excerpt)
            left -= 1
            if not left:
                break
    for reason in sorted(counts, key=lambda name: -counts[name]):
        yield Rejection(reason, counts[reason], tuple(found[reason]))


def _rows(
    file: epath.Path, parse: Callable[[dict[str, Any]], Parsed]
) -> Iterator[Parsed]:
    """What the lines of a file that `prepare` wrote hold; nothing where it is not there."""
    if not file.exists():
        return
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield parse(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(
                    f"{file} is damaged in line {number} ({error!r}). Copy it again, remove it to "
                    "see the counts alone, or run `jaxllm prepare` again with --overwrite."
                ) from error


def _sample(row: dict[str, Any]) -> tuple[tuple[str, str], Sample]:
    sample = Sample(row["id"], row["source"], row["characters"], row["text"])
    return (row["stage"], row["reason"]), sample


def _group(row: dict[str, Any]) -> Group:
    first = tuple((one["id"], one["text"]) for one in row["first"])
    return Group(row["stage"], row["documents"], first)


def _excerpt(row: dict[str, Any]) -> tuple[str, tuple[str, str]]:
    return row["reason"], (row["id"], row["excerpt"])


def changes(manifest: Manifest) -> list[tuple[str, str, int]]:
    """(stage, what, how often) of what the stages changed; see `languages` for those."""
    return [
        (row.stage, name, count) for row in manifest.flow
        for name, count in row.changes.items() if not name.startswith(LANGUAGE)
    ]


def languages(manifest: Manifest) -> list[Share]:
    """Documents by language, as the stage `language` found those that it kept; most first."""
    counts = {
        name.removeprefix(LANGUAGE): count for row in manifest.flow
        for name, count in row.changes.items() if name.startswith(LANGUAGE)
    }
    total = sum(counts.values())
    names = sorted(counts, key=lambda name: (-counts[name], name))
    return [Share(name, counts[name], None, counts[name] / total) for name in names]


def sources(manifest: Manifest, most: int) -> list[Share]:
    """How much of what was kept is from where: the largest by bytes, and the others as one."""
    total = sum(amount.bytes for amount in manifest.sources.values())
    named = [(name, a) for name, a in manifest.sources.items() if name != OTHER_SOURCES]
    rest = [a for _, a in named[most:]]
    rest += [a for name, a in manifest.sources.items() if name == OTHER_SOURCES]
    shown = [(name, a.documents, a.bytes) for name, a in named[:most]]
    if rest:
        shown.append((OTHER_SOURCES, sum(a.documents for a in rest), sum(a.bytes for a in rest)))
    return [Share(*one, one[2] / max(total, 1)) for one in shown]


def lengths(manifest: Manifest) -> list[Length]:
    """Documents by characters and by tokens, from the shortest to the longest."""
    bits = sorted(int(top).bit_length() - 1
                  for top in itertools.chain(manifest.lengths, manifest.token_lengths))
    tops = [2**one for one in range(bits[0], bits[-1] + 1)] if bits else []
    return [
        Length(top // 2, top - 1, manifest.lengths.get(str(top), 0),
               manifest.token_lengths.get(str(top), 0))
        for top in tops
    ]


def sizes(counts: Mapping[str, int]) -> str:
    """Sizes of groups in words, such as "2–3: 120, 4–7: 5"."""
    return ", ".join(f"{Length(int(top) // 2, int(top) - 1, 0, 0).label}: {number:,}"
                     for top, number in counts.items())


def percent(part: float, whole: float = 1) -> str:
    """A share, such as "12.3 %"; a rare thing is not "0.0 %"."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if part and share < 0.05:
        return "<0.1 %"
    return f"{min(share, 99.9) if part < whole else share:.1f} %"
