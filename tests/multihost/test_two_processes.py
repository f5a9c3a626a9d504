"""Two processes of four devices train as one process of eight does."""

import os
import socket
import subprocess
import sys
import time

import pytest

from jaxllm.core.checkpoint import Checkpoints
from jaxllm.core.rundir import read_metrics
from tests.train.conftest import TEXT, prepare_text

DRIVER = """
import os, sys
from jaxllm.core import devices
devices.start()
import jax
assert jax.process_count() == int(os.environ.get("JAX_NUM_PROCESSES", "1"))
assert jax.device_count() == 8
from jaxllm.core.display import make_display
from jaxllm.core.errors import Interrupted
from jaxllm.train.config import resolve_config
from jaxllm.train.loop import train
from tests.train.conftest import make_recipe
recipe = make_recipe(sys.argv[1])
recipe.train.steps = int(sys.argv[3])
recipe.checkpoint.every = 2
recipe.optimizer.schedule = "constant"  # the others depend on the number of steps
recipe.mesh.fsdp, recipe.mesh.tensor = 4, 2
try:
    train(resolve_config(recipe), {}, sys.argv[2], make_display())
except Interrupted:
    sys.exit(3)
"""


def start(corpus, workdir, steps, count):
    """The processes of a run, each with its share of eight devices."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // count}",
        "JAX_PLATFORMS": "cpu",
    }
    if count > 1:
        environment |= {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count),
        }
    command = [sys.executable, "-c", DRIVER, str(corpus), str(workdir), str(steps)]
    return [
        subprocess.Popen(
            command, env=environment | {"JAX_PROCESS_ID": str(index)},
            stderr=subprocess.PIPE, text=True,
        )
        for index in range(count)
    ]


def finish(started, code=0):
    """Waits for the processes, which must all end with this exit code."""
    try:
        for process in started:
            _, shown = process.communicate(timeout=240)
            assert process.returncode == code, shown
    finally:
        for process in started:
            process.kill()


def processes(corpus, workdir, steps, count):
    finish(start(corpus, workdir, steps, count))


def losses(workdir):
    return {
        (r["step"], r["split"]): r["loss"]
        for r in read_metrics(workdir / "metrics.jsonl") if "loss" in r
    }


def test_two_processes_equal_one_and_either_resumes_the_other(tmp_path):
    corpus = prepare_text(tmp_path / "corpus", TEXT)
    processes(corpus, tmp_path / "one", 6, count=1)
    processes(corpus, tmp_path / "two", 4, count=2)
    processes(corpus, tmp_path / "two", 6, count=1)  # the two hosts' checkpoint, on one
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    two.pop((4, "validation"))  # where the shorter run ended
    assert one.keys() == two.keys()
    for place, loss in one.items():
        assert two[place] == pytest.approx(loss, rel=1e-5), place


@pytest.mark.slow
def test_a_preempted_host_stops_both_at_one_step(tmp_path):
    corpus, workdir = prepare_text(tmp_path / "corpus", TEXT), tmp_path / "run"
    started = start(corpus, workdir, 100_000, count=2)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(losses(workdir)) < 4:
        time.sleep(0.2)
    started[1].terminate()  # as a cluster does before it takes a machine away
    finish(started, code=3)
    last = max(step for step, _ in losses(workdir))
    assert Checkpoints(workdir / "checkpoints").steps()[-1] == last
    processes(corpus, workdir, last + 2, count=1)
    assert max(step for step, _ in losses(workdir)) == last + 2


@pytest.mark.slow
def test_damage_that_one_host_sees_is_agreed_on_by_both(tmp_path):
    corpus, workdir = prepare_text(tmp_path / "corpus", TEXT), tmp_path / "run"
    processes(corpus, workdir, 4, count=2)
    for file in (workdir / "checkpoints/4/state").glob("ocdbt.process_1/d/*"):
        file.write_bytes(bytes(file.stat().st_size))
    processes(corpus, workdir, 6, count=2)
    names = {p.name for p in (workdir / "checkpoints").iterdir()}
    assert "4.damaged" in names and "6" in names
