"""Two processes of four devices train as one process of eight does."""

import os
import socket
import subprocess
import sys

import pytest

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
from jaxllm.train.config import resolve_config
from jaxllm.train.loop import train
from tests.train.conftest import make_recipe
recipe = make_recipe(sys.argv[1])
recipe.train.steps = int(sys.argv[3])
recipe.checkpoint.every = 2
recipe.optimizer.schedule = "constant"  # the others depend on the number of steps
recipe.mesh.fsdp, recipe.mesh.tensor = 4, 2
train(resolve_config(recipe), {}, sys.argv[2], make_display())
"""


def processes(corpus, workdir, steps, count):
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
    started = [
        subprocess.Popen(
            command, env=environment | {"JAX_PROCESS_ID": str(index)},
            stderr=subprocess.PIPE, text=True,
        )
        for index in range(count)
    ]
    try:
        for process in started:
            _, shown = process.communicate(timeout=240)
            assert process.returncode == 0, shown
    finally:
        for process in started:
            process.kill()


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
