"""Real processes without training: one fails in some way, the others end soon and name it."""

import signal

import pytest

from jaxllm.core.lock import Lock
from tests.multihost.processes import Processes

START = """
import sys, time, types
from jaxllm.cli import main
from jaxllm.core import devices, watch
from jaxllm.core.errors import UserError
from jaxllm.core.lock import Lock
watch.BEAT_SECONDS, watch.SILENCE_SECONDS = 0.3, 3.0

class Verb:
    def main(self, argv):
        devices.start()
        import jax
        process = jax.process_index()
        watch.barrier("the start", 60)
        print("here", flush=True)
        body(process, *argv)
        return 0

main.importlib = types.SimpleNamespace(import_module=lambda name: Verb())
"""
RUN = "\nsys.exit(main.main(['train', *sys.argv[1:]]))\n"
WAIT = "def body(process):\n    time.sleep(120)"


def test_a_killed_process_is_named_by_the_three_others():
    with Processes(START + WAIT + RUN, [], 4) as run:
        run.until_all_say("here")
        run.signal(3, signal.SIGKILL)
        assert max(run.finish(3, 3, 3, -9)) < 15
        for index in range(3):
            assert "jaxllm: Process 3 on " in run.text(index)
            assert "The same command continues from the last checkpoint" in run.text(index)


def test_a_killed_process_0_takes_the_store_with_it_and_is_named_all_the_same():
    with Processes(START + WAIT + RUN, [], 2) as run:
        run.until_all_say("here")
        run.signal(0, signal.SIGKILL)
        assert max(run.finish(-9, 3)) < 10
        assert "jaxllm: Process 0 on " in run.text(1)


def test_a_refused_lock_on_process_0_ends_all_with_its_reason(tmp_path):
    body = """
def body(process, folder):
    if process == 0:
        Lock(folder)
    watch.barrier("the run directory", 60)
"""
    lock = Lock(tmp_path)
    with Processes(START + body + RUN, [tmp_path], 2) as run:
        run.finish(2, 2)
        assert run.text(0).startswith("jaxllm: Another process (pid ")
        assert "jaxllm: Process 0 on " in run.text(1)
        assert f"is training in {tmp_path}" in run.text(1)
    lock.release()


@pytest.mark.slow
def test_an_exception_on_one_process_ends_the_others_with_its_words():
    body = "def body(process):\n    {}['shoe'] if process == 1 else time.sleep(120)"
    with Processes(START + body + RUN, [], 3) as run:
        run.until_all_say("here")
        assert max(run.finish(1, 1, 1)) < 10
        assert "Traceback" in run.text(1) and "KeyError: 'shoe'" in run.text(1)
        for index in (0, 2):
            assert "Process 1 on " in run.text(index) and "KeyError: 'shoe'" in run.text(index)
            assert "Traceback" not in run.text(index)


@pytest.mark.slow
@pytest.mark.parametrize(("frozen", "survivor"), [(0, 1), (1, 0)])
def test_a_frozen_process_is_named(frozen, survivor):
    with Processes(START + WAIT + RUN, [], 2) as run:
        run.until_all_say("here")
        run.signal(frozen, signal.SIGSTOP)
        process = run._started[survivor]
        assert process.wait(timeout=30) == 3
        assert f"Process {frozen} on " in run.text(survivor)


@pytest.mark.slow
def test_who_does_not_come_to_a_barrier_is_named():
    body = """
def body(process):
    if process == 1:
        time.sleep(120)
    watch.barrier("lunch", 2)
"""
    with Processes(START + body + RUN, [], 2) as run:
        run.finish(3, 3)
        assert "process 1 on " in run.text(0)
        assert "did not come to lunch within 2 s" in run.text(0) + run.text(1)


@pytest.mark.slow
def test_processes_that_never_come_together_end_in_words():
    program = "from jaxllm.core import cluster; cluster.START_SECONDS = 5\n" + START + WAIT + RUN
    with Processes(program, [], 2) as run:
        run.signal(1, signal.SIGKILL)
        run.finish(3, -9)
        assert "Not all of the 2 processes of the run came together at localhost" in run.text(0)
