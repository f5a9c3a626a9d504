"""The report holds what the runs hold, offline and escaped, whatever part of a run is missing."""

import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxllm.cli import report as verb
from jaxllm.core.errors import UserError
from jaxllm.report import figures, tables
from jaxllm.report.curves import smooth, smoothing_window, thin
from jaxllm.report.page import write_report
from jaxllm.report.run import read_runs


def read(file):
    return Path(file).read_text("utf-8")


def own(page):
    """The page without plotly's own JavaScript, which mentions every address and tag there is."""
    scripts = re.findall(r"<script>.*?</script>", page, re.DOTALL)
    longest = max(scripts, key=len, default="")
    return page.replace(longest, "") if len(longest) > 1_000_000 else page


def test_two_runs_side_by_side(make_run):
    base = make_run("base", evaluated={"general": 3.25, "domain": 7.0})
    tuned = make_run("tuned", floor=2.0, evaluated={"general": 3.5, "domain": 2.0})
    output = write_report([base, tuned])
    assert output == f"{tuned}/report.html"
    page = own(read(output))
    assert "base · tuned" in page and "training report" in page
    assert "−5.0000 (−71.4 %)" in page and "+0.2500 (+7.7 %)" in page
    for chart in ("loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "time"):
        assert f'<div id="{chart}"' in page
    assert "The Committee decided to" in page and "0.10.2" in page
    assert "llama, 4 layers × 192, 1.54M parameters" in page


def test_the_page_is_offline_and_small_enough(make_run):
    page = read(write_report([make_run()]))
    assert len(page) < 8e6
    assert page.count("Plotly.react(") == 1
    assert not re.search(r"""(src|href)\s*=\s*["']|@import|url\(|https?://""", own(page))


def test_text_of_the_run_cannot_become_markup(make_run):
    page = own(read(write_report([make_run("<i>run</i>")])))
    assert "<b>love</b>" not in page and "&lt;b&gt;love&lt;/b&gt; &lt;/script&gt;" in page
    assert "<i>run</i>" not in page


def test_half_a_character_in_a_sample(make_run):
    run = make_run()
    with open(f"{run}/metrics.jsonl", "a") as file:
        file.write('{"step": 999, "split": "samples", "prompt": "x", "text": "a\\ud800b"}\n')
    assert "a?b" in read(write_report([run]))


@pytest.mark.parametrize("options", [
    {"validation": False, "samples": False},
    {"mfu": False},
    {"steps": 10},
    {"steps": 1},  # nothing was logged
])
def test_missing_parts(make_run, options):
    page = own(read(write_report([make_run(**options), make_run("other")])))
    assert "other" in page
    alone = own(read(write_report([make_run("alone", **options)])))
    assert ('<div id="mfu"' in alone) == (options.get("mfu", True) and options.get("steps") != 1)
    assert ("<h2>Samples</h2>" in alone) == (options == {"mfu": False})


def test_no_metrics_and_torn_metrics(make_run):
    run = make_run()
    metrics = Path(run, "metrics.jsonl")
    metrics.write_text(metrics.read_text()[:-30])
    assert "400 steps" in read(write_report([run]))
    metrics.unlink()
    page = read(write_report([run]))
    assert "no training record yet" in page and len(page) < 100_000


def test_a_running_run_says_how_far_it_is(make_run):
    run = Path(make_run())
    saved = json.loads((run / "config.json").read_text())
    saved["config"]["train"]["steps"] = 2000
    (run / "config.json").write_text(json.dumps(saved))
    assert "step 400 of 2,000" in read(write_report([str(run)]))


def test_validation_of_several_sources(make_run):
    run = make_run(validation=False)
    with open(f"{run}/metrics.jsonl", "a") as file:
        for split, loss in (("validation/a", 1.5), ("validation/b", 2.5), ("validation/a", 1.75)):
            step = int(loss * 100)
            file.write(json.dumps({"step": step, "split": split, "loss": loss}) + "\n")
    runs = read_runs([run])
    rows = {row.label: row.values for row in tables.summary(runs)}
    assert rows["validation/a loss"] == ["1.7500"] and rows["validation/b loss"] == ["2.5000"]
    assert rows["validation/a loss at best"] == ["1.5000"]
    both = tables.summary(read_runs([make_run("single"), run]))
    assert [row.label for row in both][1] == "validation/general loss"  # named by its one source
    names = [trace.get("name") for trace in figures.charts(runs)[0].figure["data"]]
    assert "validation/a" in names and "validation/b" in names


def test_time_adds_up_over_processes(make_run):
    (run,) = read_runs([make_run(processes=2)])
    assert run.seconds()["compile"] == 13.0
    assert run.seconds()["step"] == pytest.approx((200 + 400) * 0.05)


def test_names_tell_runs_apart(make_run):
    runs = read_runs([make_run("a/run"), make_run("b/run")])
    assert [run.name for run in runs] == ["a/run", "b/run"]
    assert len(read_runs([runs[0].path, runs[0].path])) == 1


def test_settings_show_every_run(make_run):
    changed = make_run("changed", difference={"train.init_from": "runs/base"})
    rows = {row.label: row.values for row in tables.differences(read_runs([make_run(), changed]))}
    assert rows["train.steps"] == ["400", "400"]
    assert rows["train.init_from"] == ['""', "runs/base"]


def test_a_long_run_is_quick_and_small(make_run):
    run = make_run(steps=20_000, log_every=1)
    begin = time.perf_counter()
    page = read(write_report([run]))
    assert len(page) < 8e6 and time.perf_counter() - begin < 30
    assert page.count("<details") <= 2 * tables.SAMPLE_STEPS


def test_thin_keeps_the_extremes():
    values = np.random.default_rng(0).normal(size=100_000)
    values[54_321], values[99_999] = 50.0, -50.0
    steps, kept = thin(np.arange(100_000), values, limit=1000)
    assert len(kept) <= 1000 and kept.max() == 50 and kept.min() == -50
    assert np.array_equal(values[steps], kept) and np.all(np.diff(steps) > 0)


def test_smooth_is_a_centred_mean():
    line = np.arange(500.0)
    np.testing.assert_allclose(smooth(line), line)
    noise = np.random.default_rng(0).normal(size=500)
    half = smoothing_window(500) // 2
    assert smooth(noise)[250] == pytest.approx(noise[250 - half : 251 + half].mean())


def test_the_peak_of_a_cpu_is_said_to_be_measured(make_run):
    run = Path(make_run())
    words = "the peak of a CPU, of which MFU is the share, is measured"
    assert words in read(write_report([str(run)]))
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace("1 x cpu", "4 x TPU v5e"))
    assert words not in read(write_report([str(run)]))


@pytest.mark.parametrize(("steps", "newest"), [(30, 3), (120, 5), (3000, 6)])
def test_the_training_loss_is_of_the_newest_logged_steps(make_run, steps, newest):
    run = make_run(steps=steps)
    lines = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert len(losses) == steps // 10
    row = next(row for row in tables.summary(read_runs([run])) if row.label == "training loss")
    assert row.values == [f"{sum(losses[-newest:]) / newest:.4f}"]


def test_not_a_run(tmp_path):
    with pytest.raises(UserError, match="no run directory"):
        verb.main([str(tmp_path)])
    with pytest.raises(UserError, match="Name a run directory"):
        verb.main([])


@pytest.mark.parametrize("content", ['{"config": 5}', '{"config": {"data": {}}}'])
def test_a_damaged_config_is_refused(make_run, content):
    run = make_run()
    Path(run, "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        verb.main([run])


def test_without_plotly(make_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(UserError, match=re.escape("pip install 'jaxllm[report]'")):
        figures.charts(read_runs([make_run()]))


def test_verb_writes_where_it_is_told(make_run, tmp_path, capsys):
    output = tmp_path / "new" / "page.html"
    assert verb.main([make_run(), f"--output={output}"]) == 0
    assert output.exists() and str(output) in capsys.readouterr().out
