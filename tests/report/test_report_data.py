"""The report shows what a run was trained on, escaped, and says so where the data is gone."""

import json
import re
from pathlib import Path

import pytest

from jaxllm.data.manifest import read_manifest
from jaxllm.report import data
from jaxllm.report.page import write_report
from jaxllm.report.run import read_runs
from tests.data.corpora import run_prepare, sentences
from tests.report.test_report import own, read

HOSTILE = "<script>alert(1)</script> & <img src=x onerror=alert(2)> \x1b[31m"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    rows = [{"text": f"{HOSTILE} {index} {text}", "from": ("plain", HOSTILE)[index % 2]}
            for index, text in enumerate(sentences(120, 1))]
    rows += rows[:5]
    lines = [json.dumps(row) + "\n" for row in rows]
    (root / "a.jsonl").write_text("".join([*lines, f"{{{HOSTILE}\n"]))
    run_prepare(root / "out", [root / "a.jsonl"], tokenizer__kind="byte", stages=("exact",),
                input__source_field="from", split__validation_share=0.1)
    return root / "out"


def with_data(run, mixture):
    """The run directory, trained on this mixture {name: path}."""
    file = Path(run, "config.json")
    saved = json.loads(file.read_text())
    saved["config"]["data"]["mixture"] = {
        name: {"path": str(path), "weight": 1.0} for name, path in mixture.items()}
    file.write_text(json.dumps(saved))
    return run


def test_a_section_with_the_numbers_of_the_manifest(make_run, folder):
    page = own(read(write_report([with_data(make_run(), {"web": folder})])))
    train = read_manifest(folder).splits["train"]
    assert "<h2>Data</h2>" in page and f"train: {train.documents:,} documents" in page
    for text in ("What each stage let through", "Could not be read", "2–3: 5",
                 "dropped by exact: duplicate", "the largest group of exact: 2 documents",
                 "could not be read: bad_json"):
        assert text in page
    for chart in ("lengths", "dropped", "sources"):
        assert (f'<div id="data_0_{chart}"' in page) == (chart != "dropped")  # for one reason


def test_the_charts_hold_the_counts(make_run, folder):
    (found,) = data.prepared(read_runs([with_data(make_run(), {"web": folder})]))
    charts = {chart.name: chart.figure["data"] for chart in found.charts}
    kept = read_manifest(folder).flow[-1].after
    for trace in charts["data_0_lengths"]:
        assert sum(trace["y"]) == kept.documents
    assert sum(charts["data_0_sources"][0]["x"]) == pytest.approx(100)
    flow = next(table for table in found.tables if table.title == "What each stage let through")
    assert [row[0] for row in flow.rows] == ["read", "exact"]
    assert flow.rows[-1][2] == f"{kept.documents:,}"
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)


def test_no_text_of_the_data_becomes_markup(make_run, folder):
    page = own(read(write_report([with_data(make_run(), {f"<b>{HOSTILE}": folder})])))
    assert "<script>alert" not in page and "<img" not in page and "\x1b" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 3
    (found,) = data.prepared(read_runs([with_data(make_run("other"), {"web": folder})]))
    labels = next(one for one in found.charts if one.name == "data_0_sources").figure["data"][0]
    assert not any("<" in text for text in (*labels["y"], *labels["customdata"]))


def test_each_folder_once_and_each_by_its_name(make_run, folder):
    runs = [with_data(make_run("a"), {"one": folder}),
            with_data(make_run("b"), {"two": folder, "gone": "/nowhere/at/all"})]
    page = own(read(write_report(runs)))
    assert re.findall(r"<h2>(Data.*?)</h2>", page) == ["Data: one, two", "Data: gone"]
    assert "no prepared data was there" in page and page.count('id="data_0_lengths"') == 1


def test_names_stay_apart_when_they_are_cut():
    names = ["x" * 100, "y" + "x" * 100, "y" + "x" * 100 + "z"]
    assert len(set(data._labels(names))) == 3


def test_data_in_an_older_format_is_said_to_be(make_run, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/manifest.json").write_text('{"version": 1}')
    page = own(read(write_report([with_data(make_run(), {"old": tmp_path / "old"})])))
    assert "was prepared in format 1" in page
