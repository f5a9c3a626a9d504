"""The charts of the report as plotly figures; the page gives them the colours of its theme."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxllm.core.display import duration
from jaxllm.core.errors import UserError, install
from jaxllm.report.curves import smooth, thin
from jaxllm.report.run import TIMES, Run

# Of equal weight on white and on dark, and apart for most colour-blind readers.
RUN_COLOURS = (
    "#3f7fd4", "#e0793a", "#2c9f82", "#b45bb0", "#c2a11c", "#7a6ff0", "#d2506a", "#6d8a96",
)
TIME_COLOURS = {
    "step": "#2c9f82", "compile": "#7a6ff0", "data": "#e0793a",
    "checkpoint": "#c2a11c", "evaluation": "#3f7fd4", "other": "#8f979e",
}
SYMBOLS = ("circle-open", "square-open", "diamond-open", "triangle-up-open")  # of validations


@dataclass(frozen=True)
class Chart:
    """A figure in plotly's JSON form with its heading."""

    name: str
    title: str
    note: str
    figure: dict[str, Any]
    wide: bool = False


def colour(index: int) -> str:
    """The colour of the run at this place."""
    return RUN_COLOURS[index % len(RUN_COLOURS)]


def charts(runs: Sequence[Run]) -> list[Chart]:
    """Every chart for which one of the runs has values, in reading order.

    Raises:
      UserError: plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise UserError(
            f"The report draws with plotly, which is not installed. {install('report')}"
        ) from error

    fraction = lambda values: 100 * values  # noqa: E731
    found = [
        _loss(go, runs),
        _curve(go, runs, "learning_rate", "Learning rate", "", raw=False),
        _curve(go, runs, "grad_norm", "Gradient norm", "global, before clipping"),
        _curve(go, runs, "tokens_per_second", "Throughput", "tokens per second", zero=True),
        _curve(go, runs, "mfu", "Model FLOPs utilisation", "% of the devices' peak",
               scale=fraction, zero=True),
        _time(go, runs),
    ]
    return [chart for chart in found if chart is not None]


def _loss(go, runs: Sequence[Run]) -> Chart | None:
    figure = go.Figure()
    for index, run in enumerate(runs):
        before = f"{run.name}, " if len(runs) > 1 else ""
        _lines(go, figure, *run.column("train", "loss"), colour(index), f"{before}training")
        for place, split in enumerate(run.validations()):
            steps, values = thin(*run.column(split, "loss"))
            figure.add_trace(go.Scatter(
                x=steps, y=values, name=f"{before}{split}",
                mode="lines+markers" if len(steps) <= 50 else "lines",
                line={"color": colour(index), "width": 1.5, "dash": "dot"},
                marker={"size": 7, "symbol": SYMBOLS[place % len(SYMBOLS)], "line": {"width": 2}},
                hovertemplate="%{y:.4f}",
            ))
    note = "nats per token; the faint line is every logged step, the strong one its average"
    return finish("loss", "Loss", note, figure, wide=True)


def _curve(
    go, runs: Sequence[Run], name: str, title: str, note: str, *,
    raw: bool = True, zero: bool = False, scale: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Chart | None:
    figure = go.Figure()
    for index, run in enumerate(runs):
        steps, values = run.column("train", name)
        _lines(go, figure, steps, scale(values), colour(index), run.name, raw=raw)
    if zero:
        figure.update_yaxes(rangemode="tozero")
    figure.update_layout(showlegend=len(runs) > 1)
    return finish(name, title, note, figure)


def _lines(go, figure, steps, values, line_colour: str, name: str, raw: bool = True) -> None:
    """Adds every value as a faint line and their average as a strong one."""
    if not len(steps):
        return
    shown = smooth(values) if raw else values
    if raw:
        x, y = thin(steps, values)
        figure.add_trace(go.Scatter(
            x=x, y=y, mode="lines", line={"color": line_colour, "width": 1}, opacity=0.35,
            hoverinfo="skip", showlegend=False,
        ))
    x, y = thin(steps, shown)
    figure.add_trace(go.Scatter(
        x=x, y=y, name=name, mode="lines" if len(x) > 1 else "markers",
        line={"color": line_colour, "width": 2}, hovertemplate="%{y:.4~g}",
    ))


def _time(go, runs: Sequence[Run]) -> Chart | None:
    figure = go.Figure()
    splits = [run.seconds() for run in runs]
    totals = [sum(split.values()) for split in splits]
    for kind in sorted(TIMES, key=list(TIME_COLOURS).index):
        seconds = [split[kind] for split in splits]
        if any(seconds):
            shares = [part / (total or 1) for part, total in zip(seconds, totals, strict=True)]
            written = [f"{share:.0%}".replace("%", " %") for share in shares]
            figure.add_trace(go.Bar(
                y=[run.name for run in runs], x=[100 * share for share in shares], name=kind,
                orientation="h", marker={"color": TIME_COLOURS[kind]},
                text=[t if share >= 0.04 else "" for t, share in zip(written, shares, strict=True)],
                textposition="inside", insidetextanchor="middle", textfont={"color": "#ffffff"},
                customdata=[duration(value) for value in seconds],
                hovertemplate=f"{kind}: %{{customdata}} (%{{x:.1f}} %)<extra></extra>",
            ))
    figure.update_layout(
        barmode="stack", bargap=0.35, hovermode="closest", height=120 + 46 * len(runs),
        legend={"traceorder": "normal"}, showlegend=True,
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title="% of the time", range=[0, 100])
    note = "; ".join(
        f"{run.name}: {duration(total)}" for run, total in zip(runs, totals, strict=True) if total
    )
    return finish("time", "Where the time went", note, figure, wide=True)


def finish(name: str, title: str, note: str, figure, wide: bool = False) -> Chart | None:
    """The chart of a figure in the page's looks; None of an empty one."""
    if not figure.data:
        return None
    layout = figure.layout
    figure.update_layout(
        template="none",
        height=layout.height or (400 if wide else 270),
        margin={"l": 56, "r": 12, "t": 28, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode=layout.hovermode or "x unified",
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )
    figure.update_xaxes(zeroline=False, automargin=True)
    exponents = "SI" if name == "tokens_per_second" else "power"
    figure.update_yaxes(zeroline=False, automargin=True, exponentformat=exponents)
    if figure.layout.xaxis.title.text is None:
        figure.update_xaxes(title="step")
    return Chart(name, title, note, json.loads(figure.to_json()), wide)
