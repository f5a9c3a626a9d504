"""`jaxllm preview --data` as typed, and every wrong way to type it in one paragraph."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxllm.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The bundled plays, prepared."""
    out = tmp_path_factory.mktemp("data") / "shakespeare"
    recipe = f"--config={ROOT}/configs/data/shakespeare_char.py:debug"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["jaxllm", "prepare", recipe, f"--workdir={out}"])
        assert main() == 0
    return out


def test_prepared_data_in_a_pipe(folder, capsys):
    assert main(["preview", f"--data={folder}", "--rows=1"]) == 0
    captured = capsys.readouterr()
    splits = json.loads((folder / "manifest.json").read_text())["splits"]
    for name, split in splits.items():
        assert re.search(rf"{name} .*{split['documents']:,} .*{split['tokens']:,} ", captured.out)
    assert re.search(r"train  .* \d\.\d\d\n", captured.out)  # characters per token
    assert "What each stage let through" in captured.out and "\x1b" not in captured.out
    shown = re.findall(r", [\d,]+ characters\n", captured.out)
    assert len(shown) == 1  # nothing was dropped
    assert captured.err == ""


def test_prepared_data_on_a_terminal_of_100_columns(folder):
    """Nothing is wider, and nothing is left switched on."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxllm", "preview", f"--data={folder}"], stdout=follower,
        stderr=follower, cwd=ROOT, env={**os.environ, "COLUMNS": "100", "TERM": "xterm-256color"},
    )
    os.close(follower)
    out = b""
    with contextlib.suppress(OSError):  # how the end of a terminal shows on Linux
        while read := os.read(leader, 65536):
            out += read
    os.close(leader)
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[\d;]*m", "", out.decode())
    assert "\x1b" not in text and "█" in text
    assert max(map(len, text.splitlines())) == 100


@pytest.mark.parametrize("arguments, expected", [
    (["--data={none}"], r"--data='.*nothing' holds no prepared data: it has no manifest.json"),
    (["--data="], r"--data is missing. For example: --data="),
    (["--data={folder}", "--step=3"], r"--step has no effect beside --data"),
    (["--data={folder}", "--config=x.py"], r"--config has no effect beside --data"),
    (["--data={folder}", "--config.seed=3"], r"--config has no effect beside --data"),
    (["--data={folder}", "--rows=0"], r"rows"),
    (["--data={folder}", "--row=2"], r"--row is no flag of this verb. Did you mean .?--rows"),
    ([], r"--config is missing.*To look at prepared data, give --data=FOLDER"),
    (["--data={old}"], r"prepared in format 1, and this version of jaxllm reads format \d+. Run"),
    (["--data={damaged}"], r"manifest.json is damaged"),
    (["--data={folder}/manifest.json"], r"holds no prepared data"),
])
def test_mistakes(folder, tmp_path, capsys, arguments, expected):
    for name, content in (("old", '{"version": 1}'), ("damaged", '{"version":')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(content)
    places = {"folder": folder, "none": tmp_path / "nothing", "old": tmp_path / "old",
              "damaged": tmp_path / "damaged"}
    assert main(["preview", *(one.format(**places) for one in arguments)]) == 2
    error = capsys.readouterr().err
    assert re.search(expected, error), error
    assert error.count("\n") == 1


def test_documents_that_are_missing_are_said_to_be(folder, tmp_path, capsys):
    (tmp_path / "manifest.json").write_bytes((folder / "manifest.json").read_bytes())
    assert main(["preview", f"--data={tmp_path}"]) == 0
    captured = capsys.readouterr()
    assert "has no samples.jsonl" in captured.err and "train" in captured.out
