"""Runs on capacity that is taken away: supervised TPU slices, and Slurm jobs that requeue."""

import os
import signal
import subprocess
import time

import pytest

SUPERVISE = (
    "launch/tpu_vm.sh", "supervise", "--name=r", "--zone=z", "--type=v6e-16", "--spot",
    "--poll=1", "--", "jaxllm", "train", "--config=c.py", "--workdir=gs://b/r",
)
JOB = ("launch/slurm_gpu.sh", "--inside", "--restarts=2", "--", "jaxllm", "train", "--config=a b")


def test_a_spot_slice_that_is_preempted_is_asked_for_again_and_the_same_command_runs(cloud):
    cloud.plan(
        queued__resources_describe=[
            [1, "NOT_FOUND"], "WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "SUSPENDED",  # first
            "SUSPENDED", "PROVISIONING", "ACTIVE",
        ],
        # the two workers of the first slice find no way to go on when the others are gone
        jaxllm=[3, 3, 0],
    )
    shown = cloud.bash(*SUPERVISE).stderr
    made = [call[4] for call in cloud.calls("queued-resources") if call[4] != "describe"]
    assert made == ["create", "delete", "create", "delete"]
    assert all("--spot" in call for call in cloud.calls("create"))
    runs = cloud.calls("jaxllm")
    assert len(runs) >= 4 and all(call == list(SUPERVISE[-4:]) for call in runs)
    assert "r is SUSPENDED" in shown and "ended with exit code 0" in shown


@pytest.mark.thorough
def test_a_run_that_was_interrupted_starts_again_on_the_same_slice(cloud):
    cloud.plan(
        queued__resources_describe=[[1, "NOT_FOUND"], "ACTIVE"], jaxllm=[3, 134, 0, 0],
    )
    cloud.bash(*SUPERVISE)
    assert len(cloud.calls("create")) == 1
    assert len(cloud.calls("jaxllm")) == 4


@pytest.mark.parametrize("code", [1, 2])
def test_a_mistake_or_a_bug_ends_it_and_shows_the_last_lines(cloud, code):
    cloud.plan(
        queued__resources_describe=[[1, "NOT_FOUND"], "ACTIVE"],
        jaxllm=[[code, "jaxllm: --config.x is unknown."]],
    )
    shown = cloud.bash(*SUPERVISE, code=code).stderr
    assert "jaxllm: --config.x is unknown." in shown
    assert f"the command ended with exit code {code}" in shown
    assert len(cloud.calls("create")) == 1 and len(cloud.calls("delete")) == 1


def test_a_slice_that_cannot_be_asked_for_ends_it(cloud):
    cloud.plan(
        queued__resources_describe=[[1, "NOT_FOUND"]], gcloud_create=[[1, "no such type"]],
    )
    shown = cloud.bash(*SUPERVISE, code=1, LAUNCH_TRIES="2").stderr
    assert "no such type" in shown and "could not be asked for" in shown
    assert len(cloud.calls("create")) == 2


def test_a_supervisor_started_anew_takes_the_slice_and_the_run_as_they_are(cloud):
    cloud.plan(queued__resources_describe=["ACTIVE"], jaxllm=[0])
    cloud.bash(*SUPERVISE[:7], "--keep", *SUPERVISE[7:])
    assert cloud.calls("create") == [] and cloud.calls("delete") == []


@pytest.mark.parametrize(("srun", "code", "requeued"), [
    (0, 0, 0), (1, 1, 0), (2, 2, 0), (3, 0, 1), (137, 0, 1),
])
def test_a_slurm_job_requeues_what_can_resume(cloud, srun, code, requeued):
    cloud.plan(srun=[srun])
    cloud.bash(*JOB, code=code, cwd=cloud.project(), SLURM_JOB_ID="7")
    (call,) = cloud.calls("srun")
    assert call[:5] == ["srun", "--kill-on-bad-exit=0", "--ntasks-per-node=1", "bash", "-c"]
    assert call[5] == r"source launch/env.sh && exec jaxllm train --config=a\ b"
    assert cloud.calls("scontrol") == [["scontrol", "requeue", "7"]] * requeued


def test_a_slurm_job_requeues_so_often_and_no_more(cloud):
    cloud.plan(srun=[3])
    cloud.bash(
        *JOB, code=3, cwd=cloud.project(), SLURM_JOB_ID="7", SLURM_RESTART_COUNT="2"
    )
    assert cloud.calls("scontrol") == []


def test_a_slurm_job_that_gets_notice_lets_its_processes_save(cloud):
    cloud.plan(srun=["wait"])
    path = f"{cloud.folder / 'bin'}:{os.environ['PATH']}"
    job = subprocess.Popen(
        ["bash", *JOB], cwd=cloud.project(), text=True, stderr=subprocess.PIPE,
        env=os.environ | {"PATH": path, "SLURM_JOB_ID": "7", "LAUNCH_WAIT": "0"},
    )
    deadline = time.monotonic() + 20
    while not cloud.calls("srun"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    shown = job.communicate(timeout=30)[1]
    assert job.returncode == 0, shown
    assert cloud.calls("scancel") == [["scancel", "--signal=TERM", "7"]]
    assert cloud.calls("scontrol") == [["scontrol", "requeue", "7"]]
