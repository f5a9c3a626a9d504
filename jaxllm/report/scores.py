"""What evaluations found on tasks: scores as bars with intervals, and the calibration curve."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

from jaxllm.core.rundir import Record
from jaxllm.evals.metrics.ece import BINS
from jaxllm.report.figures import SYMBOLS, Chart, colour, finish
from jaxllm.report.run import Run
from jaxllm.report.tables import higher_is_better

BAR = 20  # pixels
LABEL = 60  # characters
MARKER = 16  # pixels of the bin with most questions


def charts(runs: Sequence[Run]) -> list[Chart]:
    """The charts for which one of the runs has scores of tasks."""
    if not any(_evaluated(run) for run in runs):
        return []
    return [chart for chart in (_bars(runs), _calibration(runs)) if chart is not None]


def _evaluated(run: Run) -> dict[str, Record]:
    """The newest record of every evaluation, by its name."""
    return {
        split.removeprefix("eval/"): records[-1]
        for split, records in run.splits.items() if split.startswith("eval/")
    }


def _scores(run: Run) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """(name, (value, low, high)) of what is higher the better, from 0 to 1."""
    for task, record in _evaluated(run).items():
        for name in record:
            found = [record.get(name + end) for end in ("", "_low", "_high")]
            if None not in found and higher_is_better(name) and 0 <= found[0] <= 1:
                label = f"{task}: {name.replace('_', ' ')}"
                yield label if len(label) <= LABEL else "…" + label[1 - LABEL :], tuple(found)


def _bars(runs: Sequence[Run]) -> Chart | None:
    import plotly.graph_objects as go

    figure, labels = go.Figure(), {}
    for index, run in enumerate(runs):
        found = dict(_scores(run))
        labels |= dict.fromkeys(found)
        if found:
            figure.add_trace(go.Bar(
                y=[html.escape(label) for label in found],
                x=[value for value, _, _ in found.values()],
                error_x={
                    "type": "data", "symmetric": False, "thickness": 1, "width": 3,
                    "array": [high - value for value, _, high in found.values()],
                    "arrayminus": [value - low for value, low, _ in found.values()],
                },
                customdata=[f"{low:.4f} to {high:.4f}" for _, low, high in found.values()],
                name=run.name, orientation="h", marker={"color": colour(index)},
                hovertemplate="%{y}: %{x:.4f}, %{customdata}<extra></extra>",
            ))
    figure.update_layout(
        bargap=0.3, hovermode="closest", showlegend=len(runs) > 1,
        height=90 + BAR * len(labels) * (1 + len(runs)),
    )
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    figure.update_xaxes(title="score", range=[0, 1])
    note = "at the last step that was evaluated, with 95 % bootstrap intervals"
    return finish("task_scores", "Scores of tasks", note, figure, wide=True)


def _calibration(runs: Sequence[Run]) -> Chart | None:
    import plotly.graph_objects as go

    figure = go.Figure()
    for index, run in enumerate(runs):
        for place, (kind, bins) in enumerate(_pooled(run).items()):
            most = max(n for n, _, _ in bins)
            figure.add_trace(go.Scatter(
                x=[confidence for _, confidence, _ in bins], y=[right for _, _, right in bins],
                name=run.name + kind, mode="lines+markers", customdata=[n for n, _, _ in bins],
                line={"color": colour(index), "width": 1.5},
                marker={
                    "size": [MARKER * (0.3 + 0.7 * math.sqrt(n / most)) for n, _, _ in bins],
                    "symbol": SYMBOLS[place % len(SYMBOLS)], "line": {"width": 2},
                    "color": colour(index), "opacity": 1,
                },
                cliponaxis=False,
                hovertemplate="sure to %{x:.3f}, right in %{y:.3f} of %{customdata:,}",
            ))
    if figure.data:
        figure.add_trace(go.Scatter(
            x=[0, 1], y=[0, 1], name="calibrated", mode="lines", hoverinfo="skip",
            line={"color": "#8f979e", "width": 1, "dash": "dot"},
        ))
    figure.update_layout(hovermode="closest", showlegend=True, height=420)
    figure.update_xaxes(title="probability of the likeliest choice", range=[0, 1])
    figure.update_yaxes(title="share that is right", range=[0, 1])
    note = (
        f"all questions of multiple choices, in {BINS} bins, the larger the more; below the dots a "
        "model is too sure"
    )
    return finish("calibration", "Calibration", note, figure, wide=True)


def _pooled(run: Run) -> dict[str, list[tuple[int, float, float]]]:
    """The curve over the questions of all tasks, by what stood before them (" + 5-shot"): examples,
    mean confidence and accuracy of every bin."""
    sums: dict[str, dict[int, list[float]]] = {}
    for task, record in _evaluated(run).items():
        _, plus, kind = task.partition(" + ")
        for n, confidence, right in record.get("calibration") or ():
            # a bin holds its upper end, and with all its examples their mean
            place = max(0, math.ceil(round(confidence * BINS, 9)) - 1)
            total = sums.setdefault(plus + kind, {}).setdefault(place, [0, 0.0, 0.0])
            for column, value in enumerate((n, n * confidence, n * right)):
                total[column] += value
    return {
        kind: [(int(n), c / n, r / n) for _, (n, c, r) in sorted(bins.items())]
        for kind, bins in sums.items()
    }
