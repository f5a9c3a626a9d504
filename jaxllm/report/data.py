"""What a run was trained on, as its folder of prepared data is now: numbers, charts, documents."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxllm.core.display import short, visible
from jaxllm.core.errors import UserError
from jaxllm.core.paths import path as as_path
from jaxllm.data.manifest import FILE
from jaxllm.data.prepare import overview
from jaxllm.data.prepare.overview import Overview, Reason, percent, read_overview
from jaxllm.report.figures import Chart, colour, finish
from jaxllm.report.run import Run

SAMPLES = 4  # documents of each reason
EXCERPT = 600  # characters of one
MOST = 15  # bars of a chart
LABEL = 44  # characters of a bar's name
BAR = 26  # pixels


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first `words` columns are words, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    words: int = 1


@dataclass(frozen=True)
class Excerpts:
    """The beginnings of documents of one kind."""

    title: str
    texts: list[tuple[str, str]]  # (where it is from, text)


@dataclass(frozen=True)
class Prepared:
    """A folder of prepared data as the page shows it."""

    name: str  # in the mixtures
    path: str
    problem: str = ""  # why nothing is known of it
    facts: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    excerpts: list[Excerpts] = field(default_factory=list)


def prepared(runs: Sequence[Run]) -> list[Prepared]:
    """The data of all runs, each folder once. One that cannot be read says why."""
    names: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, source in run.setting("data.mixture", {}).items():
            if source.get("path") and source.get("weight", 1):
                names.setdefault(source["path"], {})[name] = None
    return [_read(path, ", ".join(given), index)
            for index, (path, given) in enumerate(names.items())]


def _read(path: str, name: str, index: int) -> Prepared:
    try:
        if not (as_path(path) / FILE).exists():
            return Prepared(name, path, "no prepared data was there when the page was written.")
        seen = read_overview(path, SAMPLES)
    except (UserError, OSError, ImportError) as error:  # the run is what the page is about
        return Prepared(name, path, str(error))
    return Prepared(
        name, path, "", _facts(seen), _tables(seen), _charts(seen, f"data_{index}"),
        list(_excerpts(seen)),
    )


def _facts(seen: Overview) -> list[str]:
    manifest = seen.manifest
    facts = [
        f"{name}: {s.documents:,} documents, {short(s.characters)} characters, "
        f"{short(s.tokens)} tokens" for name, s in manifest.splits.items()
    ]
    tokenizer = manifest.tokenizer
    facts.append(f"tokenizer: {tokenizer.kind}, vocabulary {tokenizer.vocab_size:,}")
    shares = {"source": overview.sources(manifest, MOST), "language": overview.languages(manifest)}
    facts += [f"{what}: {visible(found[0].name)}" for what, found in shares.items()
              if len(found) == 1]
    facts += [f"{name} is not beside the data" for name in seen.missing]
    return facts


def _tables(seen: Overview) -> list[Table]:
    manifest = seen.manifest
    flow = [
        (row.stage, f"{row.before.documents:,}", f"{row.after.documents:,}",
         percent(row.after.documents, row.before.documents), short(row.before.characters),
         short(row.after.characters), short(row.before.bytes), short(row.after.bytes))
        for row in manifest.flow
    ]
    dropped = [
        (one.stage, one.reason, f"{one.dropped.documents:,}", percent(one.share),
         short(one.dropped.characters), short(one.dropped.bytes)) for one in seen.reasons
    ]
    changed = [(stage, what, f"{count:,}") for stage, what, count in overview.changes(manifest)]
    groups = [(stage, f"{one.groups:,}", f"{one.documents:,}", overview.sizes(one.sizes) or "–")
              for stage, one in manifest.groups.items()]
    rejected = [(visible(one.reason), f"{one.records:,}") for one in seen.rejections]
    found = [
        Table("What each stage let through",
              ("stage", "documents in", "out", "kept", "characters in", "out", "bytes in", "out"),
              flow),
        Table("What was dropped", ("stage", "because", "documents", "of its input", "characters",
                                   "bytes"), dropped, 2),
        Table("What was changed", ("stage", "what", "times"), changed, 2),
        Table("Documents that are alike", ("stage", "groups", "documents in them", "by size"),
              groups),
        Table("Could not be read", ("reason", "records"), rejected),
    ]
    return [table for table in found if table.rows]


def _charts(seen: Overview, begin: str) -> list[Chart]:
    """The names of the charts begin with `begin`: another folder has its own."""
    manifest = seen.manifest
    sources, languages = overview.sources(manifest, MOST), overview.languages(manifest)[:MOST]
    reasons = sorted(seen.reasons, key=lambda one: -one.dropped.documents)[:MOST]
    alone = min(len(sources), len(languages)) < 2
    found = [
        _lengths(overview.lengths(manifest), f"{begin}_lengths"),
        _bars(f"{begin}_dropped", "Why documents were dropped", "the most frequent reasons",
              [(f"{one.stage}: {one.reason}", one.dropped.documents,
                f"{percent(one.share)} of what {one.stage} was given") for one in reasons],
              "documents", wide=True),
        _bars(f"{begin}_sources", "Sources", "share of the bytes that were kept",
              [(one.name, 100 * one.share, f"{one.documents:,} documents, {short(one.bytes)} bytes")
               for one in sources], "%", wide=alone),
        _bars(f"{begin}_languages", "Languages", "share of the documents that the stage kept",
              [(one.name, 100 * one.share, f"{one.documents:,} documents") for one in languages],
              "%", wide=alone),
    ]
    return [chart for chart in found if chart is not None]


def _lengths(found: Sequence[overview.Length], name: str) -> Chart | None:
    import plotly.graph_objects as go

    figure = go.Figure()
    for place, unit in enumerate(("characters", "tokens")):
        counts = [one.by_tokens if place else one.by_characters for one in found]
        if any(counts):
            figure.add_trace(go.Bar(
                x=[one.label for one in found], y=counts, name=f"by {unit}",
                marker={"color": colour(place)}, hovertemplate="%{y:,}",
            ))
    figure.update_layout(bargap=0.15, bargroupgap=0.05, showlegend=True, height=320)
    figure.update_xaxes(title="characters or tokens of a document", type="category")
    return finish(name, "Lengths", "documents that were kept", figure, wide=True)


def _bars(
    name: str, title: str, note: str, bars: Sequence[tuple[str, float, str]], unit: str,
    wide: bool = False,
) -> Chart | None:
    """Horizontal bars (name, value, words for it); None of one or none."""
    if len(bars) < 2:
        return None
    import plotly.graph_objects as go

    labels = _labels([bar[0] for bar in bars])
    figure = go.Figure(go.Bar(
        y=labels, x=[bar[1] for bar in bars], customdata=[html.escape(bar[2]) for bar in bars],
        orientation="h", marker={"color": colour(0)},
        hovertemplate="%{y}: %{x:,.3~g}" + (" %" if unit == "%" else "")
        + ", %{customdata}<extra></extra>",
    ))
    figure.update_layout(
        bargap=0.3, hovermode="closest", height=90 + BAR * len(bars), showlegend=False,
    )
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    figure.update_xaxes(title=unit, rangemode="tozero", tickformat=",~f")
    return finish(name, title, note, figure, wide)


def _labels(names: Sequence[str]) -> list[str]:
    """Short names that stay apart; plotly would read markup in them."""
    found: dict[str, Any] = {}
    for name in names:
        label = visible(name).replace("\n", " ").replace("\t", " ")
        label = label if len(label) <= LABEL else "…" + label[1 - LABEL :]
        while label in found:
            label += "\u200b"
        found[label] = None
    return [html.escape(label) for label in found]


def _excerpts(seen: Overview) -> Iterator[Excerpts]:
    for one in (seen.kept, *seen.reasons):
        if one.samples:
            yield Excerpts(_title(one), [
                (visible(f"{sample.id}, {sample.characters:,} characters"), _begin(sample.text))
                for sample in one.samples
            ])
    for stage in dict.fromkeys(group.stage for group in seen.groups):
        group = next(one for one in seen.groups if one.stage == stage)
        yield Excerpts(
            f"the largest group of {stage}: {group.documents:,} documents",
            [(visible(name), _begin(text)) for name, text in group.first[:SAMPLES]],
        )
    for one in seen.rejections:
        if one.excerpts:
            yield Excerpts(
                f"could not be read: {visible(one.reason)} ({one.records:,})",
                [(visible(name), _begin(text)) for name, text in one.excerpts],
            )


def _title(one: Reason) -> str:
    count = one.dropped.documents
    size = f"{count:,} document{'' if count == 1 else 's'} ({percent(one.share)})"
    kind = one.reason if one.reason == one.stage else f"dropped by {one.stage}: {one.reason}"
    return f"{kind}, {size}"


def _begin(text: str) -> str:
    text = visible(text.strip())
    return text if len(text) <= EXCERPT else text[:EXCERPT].rstrip() + " …"
