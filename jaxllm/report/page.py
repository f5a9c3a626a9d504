"""Puts charts and tables into one HTML file that needs no network and no other file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from jaxllm.core.paths import atomic_write_bytes, path
from jaxllm.core.rundir import RunDirectory
from jaxllm.report import figures, tables
from jaxllm.report.run import read_runs

HERE = Path(__file__).parent


def write_report(run_directories: Sequence[str], output: str | None = None) -> str:
    """Writes the report of one run, or of several beside each other.

    Args:
      run_directories: at least one; with two, tables show the change from the first to the second.
      output: the HTML file; by default `report.html` in the last run directory.

    Returns:
      The path of the file.

    Raises:
      UserError: a directory is no run directory, plotly is missing, or `output` is not writable.
    """
    runs = read_runs(run_directories)
    charts = figures.charts(runs)
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
        summary=tables.summary(runs),
        charts=charts,
        evaluations=tables.evaluations(runs),
        samples=tables.samples(runs),
        differences=tables.differences(runs),
        versions=tables.versions(runs),
        css=(HERE / "page.css").read_text("utf-8"),
        plotly=_plotly_javascript() if charts else "",
    )
    target = path(output) if output else RunDirectory(run_directories[-1]).report
    # A byte-level tokenizer may have left half a character in a sample: it is shown as "?".
    atomic_write_bytes(target, page.encode("utf-8", "replace"))
    return str(target)


def _plotly_javascript() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
