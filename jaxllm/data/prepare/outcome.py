"""What a preparation comes to: refusals of results that nobody wants, and what lies beside shards.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence

from etils import epath

from jaxllm.core.errors import UserError
from jaxllm.core.paths import atomic_write_text
from jaxllm.data.manifest import Amount, StageFlow
from jaxllm.data.prepare import split
from jaxllm.data.prepare.config import SplitConfig
from jaxllm.data.prepare.flow import Samples, Sum, largest
from jaxllm.data.prepare.store import whole
from jaxllm.data.prepare.work import Result, whole_files

QUARANTINE = "quarantine.jsonl"  # records that could not be read: id, reason, excerpt
CLUSTERS = "clusters.jsonl"  # the largest groups of documents that are equal or nearly so
SAMPLES = "samples.jsonl"  # documents that were kept, and some that were dropped for each reason


def check_splits(
    config: SplitConfig, kept: Sum, chosen: Sum, flow: Sequence[StageFlow],
    rejected: Mapping[str, int], quarantined: Iterable[epath.Path],
) -> None:
    """Refuses an empty split; `chosen` are the documents that a split by document leaves out, in
    the files `quarantined` are the records that could not be read.

    Raises:
      UserError: nothing is left at all, or nothing for a split.
    """
    if kept.documents == 0:
        raise UserError(_nothing_left(flow, rejected) + _first(quarantined))
    share = config.validation_share
    if config.by == "position":
        size = split.cut_place(kept.characters, share)
        parts = {"training": size, "validation": kept.characters - size}
        unit, amount, fix = "characters", kept.characters, "Add text"
    else:
        parts = {"training": kept.documents - chosen.documents, "validation": chosen.documents}
        unit, amount = "documents", kept.documents
        fix = (
            "Set --config.split.by=position, which cuts the corpus at a character, or make "
            "documents smaller (--config.input.document=paragraph or line)"
        )
    empty = [name for name, size in parts.items() if size == 0]
    if empty:
        raise UserError(
            f"split.validation_share={share} of {amount:,} {unit} leaves the {empty[0]} split "
            f"empty. {fix}, or choose another share." + _unread(rejected, quarantined)
        )


def _unread(rejected: Mapping[str, int], quarantined: Iterable[epath.Path]) -> str:
    count = sum(rejected.values())
    noun = "record" if count == 1 else "records"
    return f" {count:,} {noun} could not be read.{_first(quarantined)}" if count else ""


def _nothing_left(flow: Sequence[StageFlow], rejected: Mapping[str, int]) -> str:
    reasons = [
        (f"{row.stage}: {reason}", amount.documents)
        for row in flow for reason, amount in row.dropped.items()
    ]
    if not rejected and all(name == "read: blank" for name, _ in reasons):
        return "input.paths: every document is blank, so there is nothing to prepare."
    reasons += [(f"rejected: {reason}", count) for reason, count in rejected.items()]
    reasons.sort(key=lambda item: -item[1])
    shown = ", ".join(f"{name} ({count:,})" for name, count in reasons[:5])
    return (
        f"No document is left. They went by {shown}. Look at the input's settings where records "
        "were rejected, and at the settings of the stage named first otherwise."
    )


def _first(quarantined: Iterable[epath.Path]) -> str:
    """The first of the records that could not be read, in words; "" where there is none."""
    for file in quarantined:
        with file.open("rb") as stream:
            if line := stream.readline():
                record = json.loads(line)
                return f" The first, {record['id']}: {record['reason']}, {record['excerpt']}."
    return ""


def join(target: epath.Path, parts: Iterable[epath.Path]) -> None:
    """Writes the parts one after the other into one file."""
    with whole(target) as stream:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, stream)


def join_samples(target: epath.Path, folder: epath.Path) -> None:
    """Writes the documents to show, chosen among those that the units chose."""
    samples = Samples()
    for file in whole_files(folder):
        samples.merge(json.loads(file.read_text()))
    atomic_write_text(target, "".join(line + "\n" for line in samples.lines()))


def sources(chunks: Iterable[Result]) -> dict[str, Amount]:
    """How much of what is kept is from where, the largest first."""
    sums: dict[str, Sum] = {}
    for chunk in chunks:
        for name, counts in chunk["sources"].items():
            sums.setdefault(name, Sum()).merge(counts)
    counts = largest({name: one.counts for name, one in sums.items()})
    return {name: Amount(*count) for name, count in counts.items()}


def lengths(chunks: Iterable[Result]) -> dict[str, int]:
    """The number of documents by the upper bound of their length, a power of two."""
    found: dict[int, int] = {}
    for chunk in chunks:
        for bits, count in chunk["lengths"].items():
            found[int(bits)] = found.get(int(bits), 0) + count
    return {str(2**bits): found[bits] for bits in sorted(found)}
