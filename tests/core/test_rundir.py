"""The run directory: metrics survive a crash, and a resumed run continues the file exactly."""

import errno

import pytest

from jaxllm.core.errors import UserError
from jaxllm.core.rundir import MetricsWriter, RunDirectory, append_records, read_metrics


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(str(tmp_path / "run"))
    run.create()
    return run


def record(step, split="train", **values):
    return {"step": step, "split": split, "loss": 1.0 / (step + 1), **values}


def write(run, records, resume_step=0):
    writer = MetricsWriter(run, resume_step, pytest.fail)
    for item in records:
        writer.write(item)
    writer.close()
    return writer.process


def test_names(tmp_path):
    run = RunDirectory(str(tmp_path))
    found = {name: str(getattr(run, name).relative_to(tmp_path)) for name in vars(run)
             if name != "root"}
    assert found == {
        "config": "config.json", "metrics": "metrics.jsonl", "checkpoints": "checkpoints",
        "tokenizer": "tokenizer", "tensorboard": "tensorboard", "report": "report.html",
    }


def test_create_leaves_nothing_behind(run):
    assert list(run.root.iterdir()) == []


def test_create_refuses_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="file is in the way"):
        RunDirectory(str(tmp_path / "run")).create()


def test_create_refuses_prepared_data(run):
    (run.root / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"--workdir=.*run is a folder of prepared.*=runs/run"):
        run.create()


def test_no_run_directory(run):
    with pytest.raises(UserError, match=r"no run directory.*--workdir"):
        run.read_config()
    run.config.write_text('{"config": {}}')
    assert run.read_config() == {"config": {}}


def test_records_come_back(run):
    records = [record(1), record(1, "samples", prompt="ä", text="ö"), record(2, extra=None)]
    write(run, records)
    assert read_metrics(run.metrics) == records
    assert len(run.metrics.read_text().splitlines()) == 3
    assert any(run.tensorboard.iterdir())


def test_a_torn_last_line_is_left_out(run):
    write(run, [record(1), record(2)])
    whole = run.metrics.read_text()
    for cut in range(1, len(whole.splitlines()[1])):
        run.metrics.write_text(whole[:-cut - 1])
        assert read_metrics(run.metrics) == [record(1)]
    assert read_metrics(run.root / "absent.jsonl") == []


def test_what_is_no_record_is_left_out(run):
    run.metrics.write_text('5\n{"a": 1}\n[1]\nnull\n')
    assert read_metrics(run.metrics) == []
    run.metrics.unlink()
    run.metrics.mkdir()
    with pytest.raises(UserError, match=r"metrics.jsonl cannot be read: Is a directory"):
        read_metrics(run.metrics)


def test_resume_drops_later_records_and_counts_processes(run):
    assert write(run, [record(1, process=0), record(2, process=0), record(3, process=0)]) == 0
    with run.metrics.open("a") as file:
        file.write('{"step": 4, "sp')  # killed while writing
    assert write(run, [record(3, process=1)], resume_step=2) == 1
    assert read_metrics(run.metrics) == [
        record(1, process=0), record(2, process=0), record(3, process=1)
    ]


def test_nothing_but_numbers_of_json(run):
    with pytest.raises(ValueError):
        write(run, [record(1, perplexity=float("nan"))])


def test_a_full_disk_is_explained(run, monkeypatch):
    writer = MetricsWriter(run, 0, pytest.fail)

    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer._lines, "_file", Full())
    with pytest.raises(UserError, match="disk is full"):
        writer.write(record(1))


def test_a_bucket_that_is_away_ends_no_run(run, monkeypatch):
    told = []
    writer = MetricsWriter(run, 0, told.append)

    def away():
        raise UserError("Cannot write gs://bucket/metrics.jsonl: 503.")

    with monkeypatch.context() as patch:
        patch.setattr(writer._lines, "flush", away)
        writer.flush()
    writer.flush()
    writer.close()
    assert len(told) == 1 and "503. The records wait" in told[0]


def test_appended_records_leave_a_running_trainer_alone(run):
    writer = MetricsWriter(run, 0, pytest.fail)
    writer.write(record(1))
    evaluated = record(1, "eval/a", loss=3.0)
    append_records(run, [evaluated])
    writer.write(record(2))
    append_records(run, [record(1, "eval/b")], writes=False)
    writer.close()
    assert read_metrics(run.metrics) == [record(1), evaluated, record(2)]


def test_records_are_appended_to_no_or_an_empty_file(run):
    for prepare in (lambda: None, lambda: run.metrics.write_text("")):
        prepare()
        append_records(run, [record(1)])
        assert len(run.metrics.read_text().splitlines()) == 1


def test_an_appended_record_survives_the_torn_line_before_it(run):
    write(run, [record(1), record(2)])
    run.metrics.write_text(run.metrics.read_text()[:-5])
    append_records(run, [record(1, "eval/a")])
    append_records(run, [record(1, "eval/b")])
    assert read_metrics(run.metrics) == [record(1), record(1, "eval/a"), record(1, "eval/b")]
    assert "" not in run.metrics.read_text().split("\n")[:-1]


def test_the_newest_record_of_a_measurement_counts(run):
    different = [
        record(1), record(2), record(2, "validation"), record(2, "eval/a"),
        record(2, "time", process=0), record(2, "time", process=1),
        record(2, "samples", prompt="a"), record(2, "samples", prompt="b"),
    ]
    write(run, different)
    assert read_metrics(run.metrics) == different
    again = [{**item, "loss": 9.0} for item in different]
    append_records(run, again)
    assert read_metrics(run.metrics) == again


def test_a_folder_of_another_program_is_no_run(run):
    run.config.write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"no run directory: .* that of a Hugging Face folder"):
        run.read_config()
    with pytest.raises(UserError, match=r"would overwrite.*train\.init_from"):
        run.create()


def test_only_what_is_empty_is_taken_away(tmp_path):
    run = RunDirectory(str(tmp_path / "run"))
    run.checkpoints.mkdir(parents=True)
    run.config.write_text("{}")
    run.remove_empty()
    assert run.config.exists() and not run.checkpoints.exists()
    run.config.unlink()
    run.remove_empty()
    assert not run.root.exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"config": []}', '{"config": {"data": 1}}'])
def test_a_damaged_config_is_named(run, content):
    run.config.write_text(content)
    with pytest.raises(UserError, match=r"config\.json is damaged: .*repeat its `jaxllm train`"):
        run.read_section("data")
