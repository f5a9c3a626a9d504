"""`jaxllm preview --data`: prepared data as tables and excerpts, on a terminal or in a pipe."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from jaxllm.core.display import Display, short, visible
from jaxllm.data.manifest import Manifest
from jaxllm.data.prepare import overview
from jaxllm.data.prepare.outcome import QUARANTINE
from jaxllm.data.prepare.overview import Overview, Reason, percent, read_overview

SPLITS = ("split", "documents", "characters", "bytes", "tokens", "characters per token")
FLOW = ("stage", "documents in", "out", "kept", "characters in", "out", "bytes in", "out")
REASONS = ("stage", "dropped because", "documents", "of its input", "characters", "bytes")
CHANGES = ("stage", "changed", "times")
LENGTHS = ("length", "by characters", "", "by tokens", " ")
LANGUAGES = ("language", "documents", "share", "")
SOURCES = ("source", "documents", "bytes", "share", "")
GROUPS = ("stage", "groups", "documents in them", "groups by size")
REJECTED = ("reason", "records")
WIDE = 98  # columns of a terminal; a narrower one is not shown characters beside bytes
BAR, SHORT_BAR = 22, 12  # characters of the longest, the second on a narrow terminal
NAME = 40  # characters of a source's name
MOST = 12  # sources and languages
LINES = 2  # of a terminal, or
EXCERPT = 200  # characters in a pipe, of a document
INDENT = 2


def show(folder: str | os.PathLike, samples: int, display: Display) -> Overview:
    """Prints what `prepare` made of a corpus, with `samples` documents of each reason.

    Raises:
      UserError: the folder is not prepared, or in another format, or damaged.
    """
    seen = read_overview(folder, samples, "--data")
    # a pipe has no width, and its reader wants the lines of the text
    console = Console(file=sys.stdout, soft_wrap=not sys.stdout.isatty(), highlight=False)
    narrow = console.width < WIDE and not console.soft_wrap
    _numbers(seen, narrow, display)
    _distributions(seen.manifest, SHORT_BAR if narrow else BAR, display)
    _others(seen, display)
    _alike(seen, samples, console)
    _rejected(seen, console)
    _documents(seen, console)
    for name in seen.missing:
        display.warn(
            f"{folder} has no {name}, so documents to look at are missing here. Copy it from where "
            "the data was prepared, or run `jaxllm prepare` again with --overwrite."
        )
    return seen


def _numbers(seen: Overview, narrow: bool, display: Display) -> None:
    manifest, without = seen.manifest, (4, 5) if narrow else ()
    display.table(str(seen.folder), SPLITS, [
        (name, s.documents, s.characters, s.bytes, s.tokens,
         f"{s.characters / s.tokens:.2f}" if s.tokens else None)
        for name, s in manifest.splits.items()
    ])
    display.table("What each stage let through", _left(FLOW, without), [
        _left((row.stage, row.before.documents, row.after.documents,
               percent(row.after.documents, row.before.documents), short(row.before.characters),
               short(row.after.characters), short(row.before.bytes), short(row.after.bytes)),
              without)
        for row in manifest.flow
    ])
    if seen.reasons:
        display.table("What was dropped", _left(REASONS, without[:1]), [
            _left((one.stage, one.reason, one.dropped.documents, percent(one.share),
                   short(one.dropped.characters), short(one.dropped.bytes)), without[:1])
            for one in seen.reasons
        ])
    if changed := overview.changes(manifest):
        display.table("What was changed", CHANGES, changed)


def _left(row: tuple, without: tuple[int, ...]) -> tuple:
    """A row but for some of its columns."""
    return tuple(cell for index, cell in enumerate(row) if index not in without)


def _others(seen: Overview, display: Display) -> None:
    """What is alike, and what could not be read."""
    manifest = seen.manifest
    if manifest.groups:
        display.table("Documents that are alike", GROUPS, [
            (stage, one.groups, one.documents, overview.sizes(one.sizes) or "–")
            for stage, one in manifest.groups.items()
        ])
    if seen.rejections:
        display.table("Could not be read", REJECTED, [
            (one.reason, one.records) for one in seen.rejections
        ])


def _distributions(manifest: Manifest, width: int, display: Display) -> None:
    found = overview.lengths(manifest)
    most = [max((one[column] for one in found), default=0) for column in (2, 3)]
    display.table("Documents by their length", LENGTHS, [
        (one.label, one.by_characters, bar(one.by_characters, most[0], width), one.by_tokens,
         bar(one.by_tokens, most[1], width)) for one in found
    ])
    if found := overview.languages(manifest):
        display.table("Documents by language", LANGUAGES, [
            (one.name, one.documents, percent(one.share), bar(one.share, found[0].share, width))
            for one in found[:MOST]
        ])
    found = overview.sources(manifest, MOST)
    longest = max((one.share for one in found), default=0)
    display.table("What was kept, by source", SOURCES, [
        (_name(one.name), one.documents, short(one.bytes), percent(one.share),
         bar(one.share, longest, width)) for one in found
    ])


def _alike(seen: Overview, samples: int, console: Console) -> None:
    """The largest group of each stage."""
    for stage, groups in itertools.groupby(seen.groups, key=lambda one: one.stage):
        group = next(groups)
        _rule(console, f"the largest group of {stage}: {group.documents:,} documents")
        found = group.first[:max(samples, 2)]
        if len({text for _, text in found}) == 1:
            found = [(", ".join(name for name, _ in found), found[0][1])]
        _print(console, found)


def _rejected(seen: Overview, console: Console) -> None:
    for one in seen.rejections:
        if one.excerpts:
            _rule(console, f"could not be read: {one.reason} ({one.records:,} in {QUARANTINE})")
            _print(console, one.excerpts)


def _documents(seen: Overview, console: Console) -> None:
    for one in (*seen.reasons, seen.kept):
        if one.samples:
            _rule(console, f"{_heading(one)}, {_documents_of(one)}")
            _print(console, (
                (f"{sample.id}, {sample.characters:,} characters", sample.text)
                for sample in one.samples
            ))


def _heading(one: Reason) -> str:
    return one.reason if one.reason == one.stage else f"dropped by {one.stage}: {one.reason}"


def _documents_of(one: Reason) -> str:
    count = one.dropped.documents
    noun = "document" if count == 1 else "documents"
    return f"{count:,} {noun} ({percent(one.share)})"


def _rule(console: Console, title: str) -> None:
    console.rule(Text(_line(title), "bold"), align="left", style="dim")


def _print(console: Console, texts: Iterable[tuple[str, str]]) -> None:
    for title, text in texts:
        console.print(Text(_line(title), "dim"))
        for line in excerpt(text, console):
            console.print(Text(" " * INDENT + line))


def excerpt(text: str, console: Console) -> list[str]:
    """The beginning of a text in a few lines, with ⏎ for its own line ends; in a pipe in one."""
    text = _line(text.strip()[: LINES * 1000])
    if console.soft_wrap:
        return [text if len(text) <= EXCERPT else text[:EXCERPT] + "…"]
    lines = Text(text).wrap(console, console.width - INDENT - 2)
    found = [line.plain.rstrip() for line in lines[:LINES]]
    return [*found[:-1], found[-1] + "…"] if len(lines) > LINES else found


def _line(text: str) -> str:
    """Any text as one line that cannot act on the terminal."""
    return visible(text).replace("\n", "⏎").replace("\t", " ")


def bar(value: float, longest: float, width: int) -> str:
    """A bar of blocks, in eighths of a character; what is there at all is seen."""
    eighths = round(8 * width * value / longest) if longest else 0
    eighths = max(eighths, 1) if value else 0
    return "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")


def _name(name: str) -> str:
    name = _line(name)
    return name if len(name) <= NAME else "…" + name[1 - NAME :]
