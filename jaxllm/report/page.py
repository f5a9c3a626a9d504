"""Puts charts and tables into one HTML file that needs no network and no other file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from jaxllm.core.paths import atomic_write_bytes, make_directory, path
from jaxllm.core.rundir import RunDirectory
from jaxllm.report import data, figures, plans, scores, tables
from jaxllm.report.run import read_runs

HERE = Path(__file__).parent


def write_report(run_directories: Sequence[str], output: str | None = None) -> str:
    """Writes the report of one run, or of several beside each other, and of plans.

    Args:
      run_directories: at least one; with two, tables show the change from the first to the second.
        A plan.json, or a directory that holds one, adds the plan.
      output: the HTML file; by default `report.html` in the last run directory, or beside the last
        plan.

    Returns:
      The path of the file.

    Raises:
      UserError: a directory is no run directory, plotly is missing, or `output` is not writable.
    """
    run_directories, planned = plans.split_plans(run_directories)
    runs = read_runs(run_directories)
    charts = figures.charts(runs) + scores.charts(runs) + plans.loss_chart(planned)
    prepared, evaluations = data.prepared(runs), tables.evaluations(runs)
    all_charts = charts + [chart for one in prepared for chart in one.charts]
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(
        runs=[
            {
                "name": run.name, "path": run.path, "colour": figures.colour(index),
                "facts": tables.facts(run), "progress": tables.progress(run),
            }
            for index, run in enumerate(runs)
        ],
        plans=planned,
        summary=tables.summary(runs) if runs else [],
        measured_peak=any("cpu" in run.devices for run in runs),
        charts=charts,
        forgetting=tables.forgetting(runs),
        evaluations=evaluations,
        wide_evaluations=any("[" in value for row in evaluations for value in row.values),
        samples=tables.samples(runs),
        prepared=prepared,
        all_charts=all_charts,
        differences=tables.differences(runs),
        versions=tables.versions(runs),
        css=(HERE / "page.css").read_text("utf-8"),
        plotly=_plotly_javascript() if all_charts else "",
    )
    last = run_directories[-1] if run_directories else plans.folder(planned[-1])
    target = path(output) if output else RunDirectory(last).report
    make_directory(target.parent)
    # A byte-level tokenizer may have left half a character in a sample: it is shown as "?".
    atomic_write_bytes(target, page.encode("utf-8", "replace"))
    return str(target)


def _plotly_javascript() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
