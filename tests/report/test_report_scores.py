"""Scores of tasks in the report: bars with intervals, the calibration curve, rows of the table."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxllm.evals.metrics import ece
from jaxllm.report import scores, tables
from jaxllm.report.page import write_report
from jaxllm.report.run import read_runs


def add(run, *records):
    with open(f"{run}/metrics.jsonl", "a") as file:
        file.writelines(json.dumps({"step": 400, **record}) + "\n" for record in records)


def score(name, value, low, high):
    return {name: value, f"{name}_low": low, f"{name}_high": high}


@pytest.fixture
def evaluated(make_run):
    rng = np.random.default_rng(0)
    sure, right = rng.random(200), rng.random(200) < 0.5
    halves = [ece.curve(sure[:80], right[:80]), ece.curve(sure[80:], right[80:])]
    base, tuned = make_run("base"), make_run("tuned")
    for name, half in zip(("<b>", "piqa"), halves, strict=True):
        bins = [[each["n"], each["confidence"], each["accuracy"]] for each in half]
        add(base, {"split": f"eval/{name}", "n": 100, **score("acc", 0.5, 0.4, 0.7),
                   **score("ece", 0.2, 0.1, 0.3), "calibration": bins})
    add(tuned, {"split": "eval/piqa", "n": 100, **score("acc", 0.75, 0.5, 0.9)},
        {"split": "eval/piqa + 5-shot", "n": 100, **score("acc", 0.6, 0.5, 0.7),
         **score("ppl", 12.0, 11.0, 13.0)})
    return [base, tuned], ece.curve(sure, right)


def test_bars_have_the_intervals_of_the_records(evaluated):
    runs, _ = evaluated
    [bars] = [c for c in scores.charts(read_runs(runs)) if c.name == "task_scores"]
    base, tuned = bars.figure["data"]
    assert (base["name"], tuned["name"]) == ("base", "tuned")
    assert base["y"] == ["&lt;b&gt;: acc", "piqa: acc"]
    assert tuned["y"] == ["piqa: acc", "piqa + 5-shot: acc"]
    assert tuned["x"] == [0.75, 0.6]
    assert tuned["error_x"]["array"] == pytest.approx([0.15, 0.1])
    assert tuned["error_x"]["arrayminus"] == pytest.approx([0.25, 0.1])


def test_the_calibration_curve_is_of_all_questions(evaluated):
    runs, whole = evaluated
    [chart] = [c for c in scores.charts(read_runs(runs)) if c.name == "calibration"]
    base, calibrated = chart.figure["data"]
    assert calibrated["name"] == "calibrated"
    assert base["customdata"] == [each["n"] for each in whole]
    assert base["x"] == pytest.approx([each["confidence"] for each in whole])
    assert base["y"] == pytest.approx([each["accuracy"] for each in whole])


def test_the_table_has_scores_with_their_intervals(evaluated):
    runs, _ = evaluated
    rows = [row for row in tables.evaluations(read_runs(runs)) if row.label == "acc"]
    assert [row.begins for row in rows] == ["", "", ""]  # `n` is first
    assert rows[1].values == ["0.5000 [0.4000, 0.7000]", "0.7500 [0.5000, 0.9000]"]
    assert rows[1].better
    assert not [row for row in tables.evaluations(read_runs(runs)) if "low" in row.label]


def test_what_is_best_in_the_middle_is_no_bar_and_no_change_for_the_better(make_run):
    runs = [make_run("base"), make_run("tuned")]
    for run, value in zip(runs, (0.3, 0.1), strict=True):
        add(run, {"split": "eval/bbq", "n": int(100 * value), **score("acc", value, 0.0, 0.5),
                  **score("amb_bias_score", value, 0.0, 0.5), **score("ppl", value, 0.0, 0.5)})
    [bars] = scores.charts(read_runs(runs))
    assert [bar["y"] for bar in bars.figure["data"]] == [["bbq: acc"]] * 2
    rows = {row.label: row for row in tables.evaluations(read_runs(runs))}
    better = {label: row.better for label, row in rows.items()}
    assert better == {"n": None, "acc": False, "amb bias score": None, "ppl": True}
    assert rows["n"].values == ["30", "10"]  # a count


def test_what_shows_no_change_is_not_judged(make_run):
    runs = [make_run("base"), make_run("tuned")]
    for run, value in zip(runs, (0.3, 0.3 + 1e-9), strict=True):
        add(run, {"split": "eval/bbq", **score("ece", value, 0.0, 0.5)})
    [row] = tables.evaluations(read_runs(runs))
    assert (row.change, row.better) == ("0", None)


def test_the_page_has_both_charts_and_none_without_tasks(evaluated, make_run):
    runs, _ = evaluated
    page = Path(write_report(runs)).read_text("utf-8")
    assert '<div id="task_scores"' in page
    assert '<div id="calibration"' in page
    assert "95 % intervals" in page
    alone = make_run("alone", evaluated={"general": 3.25})
    assert "95 % intervals" not in Path(write_report([alone])).read_text("utf-8")
    assert scores.charts(read_runs([alone])) == []
