"""Real processes of one run on this machine: started, waited for, and never left behind."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from ..quick import FLAGS

ROOT = Path(__file__).parents[2]
LIMIT = 100.0


class Processes:
    """The processes of one run; a context that kills what is left of them."""

    def __init__(self, program, arguments, count, devices=1):
        """Each runs `program` (Python text) with `arguments`, as one of `count`."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "SLURM"))}
        environment |= {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {FLAGS}",
            "JAX_PLATFORMS": "cpu", "JAXLLM_CACHE": os.environ.get("JAXLLM_CACHE", ""),
            "PYTHONPATH": str(ROOT),
        }
        if count > 1:
            environment |= {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{_free_port()}",
                "JAX_NUM_PROCESSES": str(count),
            }
        self._started = [
            subprocess.Popen(
                [sys.executable, "-c", program, *map(str, arguments)],
                env=environment | ({"JAX_PROCESS_ID": str(index)} if count > 1 else {}),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            )
            for index in range(count)
        ]
        self.outputs = [[] for _ in self._started]
        self.errors = [[] for _ in self._started]
        for process, out, err in zip(self._started, self.outputs, self.errors, strict=True):
            for pipe, lines in ((process.stdout, out), (process.stderr, err)):
                threading.Thread(target=lines.extend, args=(pipe,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self._started:
            process.kill()
            process.wait()

    def until(self, condition, what):
        """Waits for the condition while all processes run."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            ended = [i for i, p in enumerate(self._started) if p.poll() is not None]
            assert not ended, f"{ended} ended before {what}:\n{self.text(ended[0])}"
            assert time.monotonic() < deadline, f"{what} took too long:\n{self.text(0)}"
            time.sleep(0.05)

    def until_all_say(self, line):
        """Waits until every process has printed this line."""
        self.until(lambda: all(f"{line}\n" in lines for lines in self.outputs), line)

    def signal(self, index, number):
        """Sends a signal to one of the processes."""
        self._started[index].send_signal(number)

    def finish(self, *codes):
        """Waits for the end of all, with these exit codes; gives the seconds each took to it."""
        begin, seconds = time.monotonic(), []
        for index, (process, code) in enumerate(zip(self._started, codes, strict=True)):
            process.wait(timeout=LIMIT)
            seconds.append(time.monotonic() - begin)
            assert process.returncode == code, f"process {index}:\n{self.text(index)}"
        time.sleep(0.1)  # the readers of the pipes
        return seconds

    def text(self, index):
        """What a process wrote to stderr so far."""
        return "".join(self.errors[index])


def _free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
