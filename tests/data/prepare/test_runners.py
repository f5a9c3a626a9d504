"""Runners: the same bytes from each, mistakes shown once, and no worker left behind."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.pipeline import prepare
from jaxllm.data.prepare.runners import local
from jaxllm.data.prepare.runners.beam import BeamRunner
from jaxllm.data.prepare.runners.local import LocalRunner
from jaxllm.data.prepare.work import Task, Work

from ..corpora import make_config, quiet
from .test_pipeline import config_of, contents, corpus  # noqa: F401 (a fixture)

ROOT = Path(__file__).parents[3]
UNIT = {"unit_bytes": 6000}
PATIENCE = 300  # seconds, for a machine with much else to do
NO_BEAM = importlib.util.find_spec("apache_beam") is None


def test_two_workers_give_what_one_gives(corpus, tmp_path):  # noqa: F811
    fields = {"stages": ("normalise", "personal_data", "exact", "near", "decontaminate"),
              "tokenizer__kind": "sentencepiece", "tokenizer__vocab_size": 280}
    for workers in (1, 2):
        prepare(config_of(corpus, **fields), tmp_path / str(workers), quiet(),
                runner=LocalRunner(workers, small_bytes=0), **UNIT)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.skipif(NO_BEAM, reason="apache_beam is not installed: it wants protobuf below 7")
def test_beam_gives_what_one_machine_gives(corpus, tmp_path):  # noqa: F811
    prepare(config_of(corpus), tmp_path / "local", quiet(), **UNIT)
    prepare(config_of(corpus), tmp_path / "beam", quiet(), runner=BeamRunner(), **UNIT)
    assert contents(tmp_path / "local") == contents(tmp_path / "beam")


@pytest.mark.skipif(NO_BEAM, reason="apache_beam is not installed: it wants protobuf below 7")
def test_a_mistake_in_a_beam_worker_is_the_users(tmp_path):
    (tmp_path / "a.csv").write_text("title\nx\n")
    with pytest.raises(UserError, match=r"input.text_field='text'.*Its columns are title"):
        prepare(make_config([tmp_path / "a.csv"]), tmp_path / "out", quiet(), runner=BeamRunner())


@pytest.mark.skipif(not NO_BEAM, reason="apache_beam is installed")
def test_beam_that_is_not_installed():
    with pytest.raises(UserError, match=r"--runner=beam needs Apache Beam.*apache-beam\[gcp\]"):
        BeamRunner()


def test_small_work_starts_no_process(corpus, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(local, "ProcessPoolExecutor", lambda *_: 1 / 0)
    prepare(config_of(corpus), tmp_path / "out", quiet(), runner=LocalRunner(2), **UNIT)


def test_a_workers_mistake_is_the_users_and_ends_the_workers(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.csv").write_text("title\n" + "x\n" * 100)
    runner = LocalRunner(2, small_bytes=0)
    with pytest.raises(UserError, match=r"input.text_field='text'.*Its columns are title"):
        prepare(make_config([tmp_path]), tmp_path / "out", quiet(), runner=runner, unit_bytes=100)
    assert runner._pool is None


def die(work, item):
    """A task whose worker the system kills."""
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(work, item):
    """A task that shows its process and lasts."""
    (Path(work.folder) / f"pid-{item}").write_text(str(os.getpid()))
    time.sleep(2 * PATIENCE)
    return {}


def tasks(folder, function):
    work = Work(str(folder), str(folder), make_config(["a.txt"]), 1)
    return [Task(work, "phase", index, function, index, 1) for index in range(2)]


def test_a_worker_that_is_killed_is_named(tmp_path):
    runner = LocalRunner(2, small_bytes=0)
    with pytest.raises(UserError, match=r"was killed.*--workers=2"):
        runner.run("dying", tasks(tmp_path, die), 0, quiet())


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_driver(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(
        "import signal, sys\n"
        "from tests.data.prepare.test_runners import LocalRunner, quiet, sleep, tasks\n"
        "if __name__ == '__main__':\n"
        # which a shell ignores for what it starts in the background
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    runner = LocalRunner(2, 0)\n"
        "    try:\n"
        "        runner.run('sleeping', tasks(sys.argv[1], sleep), 0, quiet())\n"
        "    finally:\n"
        "        runner.close()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + PATIENCE
    files = [tmp_path / "pid-0", tmp_path / "pid-1"]
    try:
        while not all(file.exists() and file.read_text() for file in files):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
        if how == signal.SIGINT:  # as a terminal does: to all of them
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        end = time.monotonic() + PATIENCE
        assert process.wait(timeout=PATIENCE) != 0
        while any(alive(int(file.read_text())) for file in files):
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_log_hears_of_a_phase_once(corpus, tmp_path):  # noqa: F811
    display = quiet()
    prepare(config_of(corpus), tmp_path / "out", display, **UNIT)
    lines = display._stream.getvalue().splitlines()
    chunks = [one for one in lines if "tokens" in one]
    assert len(chunks) == 1 and chunks[0].startswith("writing tokens ")
    done, _, total = chunks[0].split()[-1].partition("/")
    assert done == total and int(total) > 1
