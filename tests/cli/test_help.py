"""`jaxllm VERB --help`: every flag that a verb takes is listed, and examples stay examples."""

import re

import pytest

from jaxllm.cli import distill
from jaxllm.cli.main import VERBS, main


def shown(capsys, verb):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_flags_of_the_examples_are_listed(capsys, verb):
    examples, flags = shown(capsys, verb).split("Flags:\n")
    commands = re.findall(rf"^  jaxllm {verb} (.*(?:\\\n.*)*)", examples, re.MULTILINE)
    commands = [command.partition(" -- ")[0] for command in commands]  # what follows is Beam's
    assert commands
    for flag in re.findall(r"--([\w-]+)", " ".join(commands)):
        assert re.search(rf"--(\[no\])?{flag.removeprefix('no')}:", flags), flag
    assert all(len(line) <= 100 for line in examples.splitlines())


def test_answers_go_into_a_new_folder(tmp_path, monkeypatch):
    """The folder is made before the model is loaded, which takes longest."""
    monkeypatch.setattr("jaxllm.generate.model.load", lambda name: 1 / 0)
    output = tmp_path / "new" / "rows.jsonl"
    with pytest.raises(ZeroDivisionError):
        distill.main(["--model=x", "--prompts=p.jsonl", f"--output={output}"])
    assert output.parent.is_dir()
