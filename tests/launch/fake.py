#!/usr/bin/env python3
"""Stands for gcloud, xpk, kubectl, sbatch and others: records its arguments, answers from a plan.

The plan is plan.json beside the folder of the fakes: {"gcloud … create": [codes and texts]}, each
answer used once and the last one for ever. A command sent to a worker runs here, in that worker's
own home folder.
"""

import fcntl
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = Path(sys.argv[0]).name
WORKERS = 2


def answer(words):
    """The next answer of the plan whose words are all there, as [code, text]."""
    with open(ROOT / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(ROOT / "calls.jsonl", "a") as calls:
            calls.write(json.dumps(words) + "\n")
        plan = json.loads((ROOT / "plan.json").read_text())
        for key, answers in plan.items():
            if all(part in words for part in key.split()):
                code, text = answers.pop(0) if len(answers) > 1 else answers[0]
                (ROOT / "plan.json").write_text(json.dumps(plan))
                return code, text
    return 0, ""


def option(name, words):
    return next(w.split("=", 1)[1] for w in words if w.startswith(f"--{name}="))


def homes(node, words):
    chosen = option("worker", words)
    for worker in range(WORKERS) if chosen == "all" else [int(chosen)]:
        home = ROOT / "workers" / f"{node}-{worker}"
        home.mkdir(parents=True, exist_ok=True)
        yield home


def copy(words):
    """scp: what arrives is a small project whose env.sh does nothing."""
    target = next(w for w in words if ":" in w and not w.startswith("--"))
    node, name = target.split(":")
    (ROOT / "env.sh").write_text("")
    for home in homes(node, words):
        with tarfile.open(home / name, "w:gz") as archive:
            archive.add(ROOT / "env.sh", "launch/env.sh")


def main():
    words = [NAME, *sys.argv[1:]]
    if NAME == "sleep":
        time.sleep(0.02)
        return 0
    if NAME == "tar" and "-czf" not in words:
        os.execv("/bin/tar", words)
    code, text = answer(words)
    if text:
        print(text, file=sys.stderr if code else sys.stdout, flush=True)
    if code == 0 and "scp" in words:
        copy(words)
    if code == 0 and "ssh" in words:
        for home in homes(words[words.index("ssh") + 1], words):
            environment = os.environ | {"HOME": str(home)}
            subprocess.run(["bash", "-c", option("command", words)], cwd=home, env=environment)
    if code == 0 and NAME == "srun" and text == "wait":
        deadline = time.monotonic() + 20
        while not (ROOT / "told").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        return 3
    if NAME == "scancel":
        (ROOT / "told").touch()
    return code


sys.exit(main())
