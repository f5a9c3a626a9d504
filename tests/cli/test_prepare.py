"""`jaxllm prepare` and `jaxllm preview` as typed: recipes, overrides, errors in one paragraph."""

import json
import re
from pathlib import Path

import pytest

from jaxllm.cli.main import main

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs/data").glob("*.py"))
OWN_TEXT = ("text.py", "web_en.py", "domain.py", "low_resource_language.py", "code.py")


def run(*arguments):
    """The exit code of `jaxllm ARGUMENTS`; config_flags looks for overrides in sys.argv."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["jaxllm", *arguments])
        return main()


def prepare(recipe, folder, *flags):
    return run("prepare", f"--config={ROOT}/configs/data/{recipe}", f"--workdir={folder}", *flags)


@pytest.fixture(scope="module")
def shakespeare(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shakespeare"
    assert prepare("shakespeare.py:debug", folder) == 0
    return folder


@pytest.mark.parametrize("variant", ["", ":debug"])
@pytest.mark.parametrize("recipe", [recipe.name for recipe in RECIPES])
def test_every_recipe_prepares(recipe, variant, shakespeare, tmp_path, capsys):
    flags = []
    if recipe == "fomc.py":
        flags = [f"--config.tokenizer.path={shakespeare}/tokenizer"]
    if recipe in OWN_TEXT:
        flags = ["--config.input.paths=('sample:fomc',)", "--config.tokenizer.vocab_size=600",
                 "--config.split.validation_share=0.2"]
    if recipe == "low_resource_language.py":  # which leaves English out otherwise
        flags += ["--config.language.unwanted=('fr',)"]
    assert prepare(recipe + variant, tmp_path / "out", *flags) == 0
    out = capsys.readouterr().out
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    for name, split in manifest["splits"].items():
        assert re.search(rf"{name} .*{split['documents']:,} .*{split['tokens']:,} ", out)


def test_the_second_time_says_so(shakespeare, capsys):
    assert prepare("shakespeare.py:debug", shakespeare) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_other_settings_and_overwrite(tmp_path, capsys):
    assert prepare("shakespeare_char.py", tmp_path / "out") == 0
    share = "--config.split.validation_share=0.2"
    assert prepare("shakespeare_char.py", tmp_path / "out", share) == 2
    assert "validation_share was 0.1 and is 0.2" in capsys.readouterr().err
    assert prepare("shakespeare_char.py", tmp_path / "out", share, "--overwrite") == 0


@pytest.mark.parametrize("recipe, flags, expected", [
    ("shakespeare.py", ["--config.input.pats=('x',)"], "pats"),
    ("shakespeare.py:debig", [], "Did you mean 'debug'"),
    ("text.py", [], "input.paths is empty"),
    ("text.py", ["--config.input.paths=('nowhere.txt',)"], "nowhere.txt does not exist"),
    ("shakespeare.py", ["--config.tokenizer.vocab_size=90000"], "largest that works is"),
    ("fomc.py", ["--config.tokenizer.path=/nowhere"], "/nowhere holds no tokenizer"),
])
def test_mistakes_are_one_paragraph(recipe, flags, expected, tmp_path, capsys):
    assert prepare(recipe, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("jaxllm: ") and expected in error[-1]
    assert "Traceback" not in "".join(error)


def test_preview_of_a_training_recipe(shakespeare, capsys):
    arguments = [
        "preview", f"--config={ROOT}/configs/quickstart.py:debug", "--rows=2",
        f"--config.data.mixture.shakespeare.path={shakespeare}",
    ]
    assert run(*arguments) == 0
    first = capsys.readouterr().out
    assert "step 1, row 1, shakespeare" in first and "2 of 8 rows of 32 tokens" in first
    assert run(*arguments, "--step=2") == 0
    assert capsys.readouterr().out.splitlines()[1] != first.splitlines()[1]
    arguments[-1] += "-none"
    assert run(*arguments) == 2
    assert "Prepared folders near it" in capsys.readouterr().err
