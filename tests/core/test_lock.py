"""A run directory has one writer; a process that dies, however, leaves nothing that blocks."""

import os
import signal
import subprocess
import sys

import pytest

from jaxllm.core.errors import UserError
from jaxllm.core.lock import Lock

HOLDS = (
    "import sys, time; from jaxllm.core.lock import Lock; lock = Lock(sys.argv[1]); "
    "print('held', flush=True); time.sleep(60)"
)


def test_a_second_one_is_refused_until_the_first_is_released(tmp_path):
    first = Lock(tmp_path)
    with pytest.raises(UserError, match=rf"Another process \(pid {os.getpid()} on .*--workdir"):
        Lock(tmp_path)
    first.release()
    first.release()
    assert list(tmp_path.iterdir()) == []
    Lock(tmp_path).release()


def test_a_killed_process_blocks_nobody(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"pid {process.pid} on "):
        Lock(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / ".lock").exists()
    Lock(tmp_path).release()


def test_a_lock_that_its_holder_took_away_meanwhile_does_not_count(tmp_path, monkeypatch):
    there = iter([False, True])
    monkeypatch.setattr(Lock, "_is_there", lambda self, file: next(there))
    Lock(tmp_path).release()
    assert next(there, None) is None


def test_a_bucket_is_not_locked():
    Lock("gs://bucket/run").release()
