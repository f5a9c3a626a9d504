"""A model's life in a bucket, as on the hosts of a pod, which share no disk."""

import json
import os
import subprocess
import sys

import pytest

from tests.bucket import BUCKET, serving

PREPARE = "prepare --config=configs/data/shakespeare.py:debug --workdir=gs://{b}/data"
RUN = (
    "train --config=configs/quickstart.py:debug --workdir=gs://{b}/run --config.train.log_every=1 "
    "--config.data.mixture.shakespeare.path=gs://{b}/data --config.eval.batches=1 "
    "--config.train.steps={n}"
)


@pytest.mark.thorough
def test_a_run_goes_on_in_a_bucket_and_keeps_its_records():
    """gcsfs opens an object to append by beginning it anew, without a word: records went so."""
    with serving() as (objects, environment):
        def jaxllm(command, **values):
            done = subprocess.run(
                [sys.executable, "-m", "jaxllm", *command.format(b=BUCKET, **values).split()],
                env=os.environ | environment | {"XLA_FLAGS": ""}, text=True, timeout=120,
                capture_output=True, check=False,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout + done.stderr

        def records(split):
            lines = objects.content["run/metrics.jsonl"][0].decode().splitlines()
            return [record for record in map(json.loads, lines) if record["split"] == split]

        jaxllm(PREPARE)
        jaxllm(RUN, n=6)
        assert [record["step"] for record in records("train")] == list(range(1, 7))
        first = records("train")
        assert "resuming gs://" in jaxllm(RUN, n=8)
        assert records("train")[:6] == first
        assert [record["step"] for record in records("train")] == list(range(1, 9))
        jaxllm("eval --model=gs://{b}/run --data=gs://{b}/data --batches=1")
        assert len(records("train")) == 8 and len(records("eval/data")) == 1
        jaxllm("report gs://{b}/run")
        names = set(objects.content)
    assert "run/report.html" in names and "run/checkpoints/8/_CHECKPOINT_METADATA" in names
    assert sum(name.startswith("run/tensorboard/events") for name in names) == 2
