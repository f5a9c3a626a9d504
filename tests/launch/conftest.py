"""Launchers run against recorded fakes of the programs they call."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FAKES = ("gcloud", "xpk", "kubectl", "docker", "sbatch", "srun", "scontrol", "scancel", "jaxllm",
         "sleep", "tar")


class Cloud:
    """The fakes of one test: what they are to answer, and what they were asked."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "bin").mkdir()
        for name in FAKES:
            shutil.copy(Path(__file__).parent / "fake.py", folder / "bin" / name)
            (folder / "bin" / name).chmod(0o755)
        self.plan()

    def plan(self, **answers):
        """Answers by words of the call (joined by _): a text, an exit code, or [code, text]."""
        def both(answer):
            return {int: lambda: [answer, ""], str: lambda: [0, answer]}.get(
                type(answer), lambda: answer)()

        plan = {key.replace("__", "-").replace("_", " "): [both(a) for a in answer]
                for key, answer in answers.items()}
        (self.folder / "plan.json").write_text(json.dumps(plan))
        (self.folder / "calls.jsonl").unlink(missing_ok=True)

    def project(self):
        """A folder with the launchers and an env.sh that installs nothing, to run jobs in."""
        project = self.folder / "project"
        shutil.copytree(REPOSITORY / "launch", project / "launch", dirs_exist_ok=True)
        (project / "launch/env.sh").write_text("")
        return project

    def bash(self, *arguments, code=0, cwd=REPOSITORY, **environment):
        """Runs bash with the fakes on PATH; gives the process."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", *map(str, arguments)], capture_output=True, text=True, timeout=60,
            cwd=cwd, env=os.environ | {"PATH": path, "LAUNCH_WAIT": "0", **environment},
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def calls(self, *words):
        """The calls with all these words, in order, each a list."""
        file = self.folder / "calls.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        calls = [json.loads(line) for line in lines]
        return [call for call in calls if all(word in call for word in words)]


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)
