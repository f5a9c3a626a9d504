"""Training on several real processes: equal to one, stopped by a loss, resumed by any number."""

import shutil
import signal
import time

import pytest

from jaxllm.core.checkpoint import Checkpoints
from jaxllm.core.rundir import read_metrics
from tests.multihost.processes import Processes
from tests.train.conftest import TEXT, prepare_text

EVERY, STEPS, MORE = 4, 16, 18
RUN = """
import sys
from jaxllm.cli.main import main
recipe, *runs = sys.argv[1:]
for run in runs:
    workdir, steps = run.split(":")
    command = [f"--config={recipe}", f"--workdir={workdir}", f"--config.train.steps={steps}"]
    if code := main(["train", *command]):
        sys.exit(code)
"""
RECIPE = """
from tests.train.conftest import make_recipe

def get_config():
    recipe = make_recipe({corpus!r})
    recipe.model.layers = 1
    recipe.checkpoint.every = {every}
    recipe.eval.batches = 1
    recipe.optimizer.schedule = "constant"  # the others depend on the number of steps
    recipe.mesh.fsdp = {fsdp}
    return recipe
"""


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path, fsdp=2)


def write_recipe(folder, fsdp):
    corpus = prepare_text(folder / "corpus", TEXT)
    (folder / "recipe.py").write_text(RECIPE.format(corpus=str(corpus), fsdp=fsdp, every=EVERY))
    return folder / "recipe.py"


def processes(recipe, count, devices=1, **runs):
    """Starts `count` processes that train each folder to that many steps, one after another."""
    arguments = [f"{recipe.parent / name}:{steps}" for name, steps in runs.items()]
    return Processes(RUN, [recipe, *arguments], count, devices)


def losses(workdir):
    return {
        (r["step"], r["split"]): r["loss"]
        for r in read_metrics(workdir / "metrics.jsonl") if "loss" in r
    }


def state(workdir, step):
    """The checksums of all arrays of a checkpoint."""
    return Checkpoints(workdir / "checkpoints").read_meta(step)["arrays"]


@pytest.mark.thorough
def test_a_killed_run_goes_on_bitwise_and_on_another_number_of_processes(recipe, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with processes(recipe, 2, whole=STEPS, killed=100_000) as run:
        run.until((killed / "checkpoints/4").exists, "the first checkpoint")
        run.signal(1, signal.SIGKILL)
        shutil.copytree(whole, tmp_path / "fewer")
        with processes(recipe, 1, devices=2, fewer=MORE) as alone:
            survived = run.finish(3, -9)[0]
            print(f"the other process ended after {survived:.1f} s")
            assert survived < 60
            alone.finish(0)
        assert "jaxllm: Process 1 on " in run.text(0)
        assert "The same command continues from the last checkpoint." in run.text(0)
    assert not (killed / f"checkpoints/{STEPS}").exists(), "it trained on before it was killed"
    with processes(recipe, 2, killed=MORE) as resumed:
        resumed.finish(0, 0)
    trained = {place: loss for place, loss in losses(killed).items() if place[1] == "train"}
    fewer = losses(tmp_path / "fewer")
    for place, loss in losses(whole).items():
        assert place[1] != "train" or trained[place] == loss, place
    assert state(whole, STEPS) == state(killed, STEPS)
    for step in range(STEPS + 1, MORE + 1):
        assert fewer[step, "train"] == pytest.approx(trained[step, "train"], rel=1e-5)


@pytest.mark.slow
def test_two_processes_equal_one_from_the_start(recipe, tmp_path):
    with (
        processes(recipe, 2, two=STEPS) as two,
        processes(recipe, 1, devices=2, one=STEPS) as one,
    ):
        two.finish(0, 0)
        one.finish(0)
    for place, loss in losses(tmp_path / "one").items():
        assert losses(tmp_path / "two")[place] == pytest.approx(loss, rel=1e-5), place


@pytest.mark.slow
def test_four_processes_lose_one_and_go_on_as_two_and_as_four(tmp_path):
    recipe, run = write_recipe(tmp_path, fsdp=4), tmp_path / "run"
    with processes(recipe, 4, run=100_000) as started:
        started.until((run / "checkpoints/4").exists, "the first checkpoint")
        started.signal(2, signal.SIGKILL)
        assert max(started.finish(3, 3, -9, 3)) < 60
        assert all("jaxllm: Process 2 on " in started.text(i) for i in (0, 1, 3))
    last = Checkpoints(run / "checkpoints").steps()[-1]
    for count, more in ((2, 2), (4, 4)):
        with processes(recipe, count, devices=4 // count, run=last + more) as resumed:
            resumed.finish(*[0] * count)
    assert max(step for step, _ in losses(run)) == last + 4


@pytest.mark.slow
def test_a_killed_process_0_of_a_training_run_is_named(recipe, tmp_path):
    run = tmp_path / "run"
    with processes(recipe, 2, run=100_000) as started:
        started.until((run / "checkpoints/4").exists, "the first checkpoint")
        started.signal(0, signal.SIGKILL)
        assert max(started.finish(-9, 3)) < 60
        assert "jaxllm: Process 0 on " in started.text(1)


@pytest.mark.slow
def test_a_preempted_host_stops_both_at_one_step(recipe, tmp_path):
    run = tmp_path / "run"
    with processes(recipe, 2, run=100_000) as started:
        started.until(lambda: len(losses(run)) > 4, "the first steps")
        started.signal(1, signal.SIGTERM)  # as a cluster does before it takes a machine away
        started.finish(3, 3)
    last = max(step for step, _ in losses(run))
    assert Checkpoints(run / "checkpoints").steps()[-1] == last
    with processes(recipe, 1, devices=2, run=last + 2) as resumed:
        resumed.finish(0)
    assert max(step for step, _ in losses(run)) == last + 2


@pytest.mark.slow
def test_a_run_that_holds_the_directory_refuses_both_processes_of_another(recipe, tmp_path):
    run = tmp_path / "run"
    with processes(recipe, 1, devices=2, run=100_000) as first:
        first.until(lambda: len(losses(run)) > 1, "the first steps")
        begin = time.monotonic()
        with processes(recipe, 2, run=10) as second:
            second.finish(2, 2)
            assert "Another process (pid " in second.text(0)
            assert "Process 0 on " in second.text(1)
        assert time.monotonic() - begin < 60


@pytest.mark.slow
def test_damage_that_one_host_sees_is_agreed_on_by_both(recipe, tmp_path):
    run = tmp_path / "run"
    with processes(recipe, 2, run=20) as started:
        started.finish(0, 0)
    for file in (run / "checkpoints/20/state").glob("ocdbt.process_1/d/*"):
        file.write_bytes(bytes(file.stat().st_size))
    with processes(recipe, 2, run=22) as started:
        started.finish(0, 0)
    names = {p.name for p in (run / "checkpoints").iterdir()}
    assert "20.damaged" in names and "22" in names
