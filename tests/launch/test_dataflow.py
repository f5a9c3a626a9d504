"""launch/dataflow.sh: what it calls, a dry run that can be pasted, refusals."""

import re

import pytest

from tests.launch.conftest import REPOSITORY

DATAFLOW = "launch/dataflow.sh"
IMAGE = "--image=r/p:1"
PLACE = (IMAGE, "--project=p q", "--region=us-central1")
PREPARE = ("--", "jaxllm", "prepare", "--config=configs/data/text.py", "--workdir=gs://b/web",
           "--config.input.paths=('gs://b/it\'s/*.jsonl',)")


@pytest.mark.parametrize("arguments", [
    ("image", IMAGE), ("run", *PLACE, "--option=--subnetwork=a b", *PREPARE),
])
def test_a_dry_run_calls_nothing_and_prints_what_runs(cloud, arguments):
    place = arguments.index("--") if "--" in arguments else len(arguments)
    dry = cloud.bash(DATAFLOW, *arguments[:place], "--dry-run", *arguments[place:])
    assert cloud.calls() == []
    (cloud.folder / "pasted.sh").write_text(dry.stdout)
    cloud.bash(cloud.folder / "pasted.sh")
    pasted = cloud.calls()
    cloud.plan()
    cloud.bash(DATAFLOW, *arguments)
    assert pasted and pasted == cloud.calls()


def test_the_command_gets_the_runner_and_its_options(cloud):
    cloud.bash(DATAFLOW, "run", *PLACE, "--machines=7", "--machine=n2-highmem-4", *PREPARE)
    (call,) = cloud.calls()
    assert call[:4] == ["docker", "run", "--rm", "--entrypoint="]
    place = call.index("r/p:1")
    words = len(PREPARE) - 1
    assert call[place + 1 : place + 1 + words] == list(PREPARE[1:])
    assert call[place + 1 + words :] == [
        "--runner=beam", "--", "--runner=DataflowRunner", "--project=p q", "--region=us-central1",
        "--temp_location=gs://b/web/dataflow", "--sdk_container_image=r/p:1",
        "--sdk_location=container", "--max_num_workers=7", "--worker_machine_type=n2-highmem-4",
    ]


@pytest.mark.parametrize(("arguments", "words"), [
    ((), "no action is named"),
    (("run", "--project=p", "--region=r", *PREPARE), "--image is missing"),
    (("run", IMAGE, "--region=r", *PREPARE), "--project is missing"),
    (("run", IMAGE, "--project=p", *PREPARE), "--region is missing"),
    (("run", *PLACE), "no preparation is named"),
    (("run", *PLACE, "--", "jaxllm", "train", "--workdir=gs://b/a"), "no preparation is named"),
    (("run", *PLACE, "--", "jaxllm", "prepare", "--workdir=data/web"), "must be in a bucket"),
    (("run", *PLACE, *PREPARE, "--runner=beam"), "--runner=beam belongs to this launcher"),
    (("run", *PLACE, "--machines=many", *PREPARE), "--machines=many is no whole number"),
    (("run", *PLACE, "--spot", *PREPARE), "--spot is no option"),
])
def test_mistakes_are_refused_before_anything_is_called(cloud, arguments, words):
    assert words in cloud.bash(DATAFLOW, *arguments, code=2).stderr
    assert cloud.calls() == []


def test_every_option_of_the_help_is_taken(cloud):
    shown = cloud.bash(DATAFLOW, "--help").stdout
    assert "launch/dataflow.sh " in shown and "set -euo" not in shown
    options = re.findall(r"  (--\S+)", shown.partition("\nOptions\n")[2].partition("\n\n")[0])
    assert len(options) > 7
    for option in options:
        cloud.bash(DATAFLOW, option, "--help")


def test_the_image_is_of_one_beam_and_holds_what_it_copies():
    text = (REPOSITORY / "launch/dataflow.Dockerfile").read_text()
    versions = re.findall(r"(?:_sdk:|apache-beam\[gcp\]==)([\d.]+)", text)
    assert len(versions) == 2 and len(set(versions)) == 1
    for line in text.splitlines():
        if line.startswith("COPY") and "--from" not in line:
            assert all((REPOSITORY / source).exists() for source in line.split()[1:-1])
