"""Recipes and overrides that are wrong: one paragraph with the place, the reason and the fix."""

from pathlib import Path

import pytest

from jaxllm.cli.flags import parse
from jaxllm.cli.main import main
from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import resolve_config as resolve_prepare

CONFIGS = Path(__file__).parents[2] / "configs"
QUICKSTART = f"--config={CONFIGS}/quickstart.py"


def recipe(*arguments, kind="train"):
    return parse(arguments, "doc", workdir=False, kind=kind)[0]


@pytest.mark.parametrize(("text", "message"), [
    ("x = 1\ndef get_config(:\n", r"recipe\.py line 2 fails: SyntaxError: invalid syntax"),
    ("\nimport nothere\n", r"recipe\.py line 2 fails: ModuleNotFoundError: .*'nothere'"),
    ("def get_config(v=''):\n    return 1 / 0\n", r"line 2 fails: ZeroDivisionError: division"),
    ("from jaxllm.train.config import default_config\ndef get_config(v=''):\n"
     "    c = default_config()\n    c.train.steps = 'many'\n", r"line 4 fails: TypeError: .*steps"),
    ("x = 1\n", r"recipe\.py fails: AttributeError: .*get_config"),
    ("def get_config(v=''):\n    pass\n", r"returned NoneType, not a ConfigDict"),
])
def test_a_recipe_that_fails_says_where(tmp_path, capsys, text, message):
    (tmp_path / "recipe.py").write_text(text)
    assert main(["train", f"--config={tmp_path}/recipe.py", f"--workdir={tmp_path}/out"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "Traceback" not in error
    with pytest.raises(UserError, match=message):
        recipe(f"--config={tmp_path}/recipe.py")


@pytest.mark.parametrize(("overrides", "message"), [
    ("optimizer.lr=1", r"optimizer\.lr is no known field\. Did you mean 'learning_rate'"),
    ("optimizer.zzz=1", r"Choose one of: b1, b2, decay_embeddings"),
    ("train.steps=1.5", r"train\.steps wants a whole number, not '1\.5'"),
    ("optimizer.learning_rate=abc", r"optimizer\.learning_rate wants a number, not 'abc'"),
    ("data.shuffle=perhaps", r"data\.shuffle wants True or False, not 'perhaps'"),
    ("train.steps.x=1", r"train\.steps is a value, which has no fields"),
    ("data.mixture.mine.weight=1", r"mixture has shakespeare\..*mixture\.mine\.path=FOLDER"),
])
def test_an_override_that_cannot_be(overrides, message):
    with pytest.raises(UserError, match=message):
        recipe(QUICKSTART, f"--config.{overrides}")


def test_a_source_is_added_and_another_left_out_on_the_command_line():
    config = recipe(
        QUICKSTART, "--config.data.mixture.mine.path=there",
        "--config.data.mixture.shakespeare.weight=0",
    )
    assert config.data.mixture.to_dict() == {
        "mine": {"path": "there", "weight": 1.0},
        "shakespeare": {"path": "runs/quickstart/data/shakespeare", "weight": 0.0},
    }


def test_the_flag_and_its_value_may_be_two_arguments():
    config = recipe(
        "--config.train.steps", "7", "--config", f"{CONFIGS}/quickstart.py:debug",
        "--config.seed=3",
    )
    assert (config.train.steps, config.seed, config.data.sequence_length) == (7, 3, 32)


def test_the_other_verbs_recipe_is_refused():
    with pytest.raises(UserError, match=r"recipe for `jaxllm train`; this verb .*configs/data/"):
        recipe(QUICKSTART, kind="prepare")
    with pytest.raises(UserError, match=r"recipe for `jaxllm prepare`; this verb .*in configs/"):
        recipe(f"--config={CONFIGS}/data/text.py")


def test_help_of_a_repeatable_flag_is_one_line(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    shown = capsys.readouterr().out
    assert "--prompt: Text to go on from; repeat the flag for a batch.\n" in shown
    assert "repeat this option" not in shown


@pytest.mark.parametrize(("verb", "saves"), [("train", True), ("generate", False)])
def test_ctrl_c_speaks_of_checkpoints_where_there_are_any(monkeypatch, capsys, verb, saves):
    import importlib

    def stop(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module(f"jaxllm.cli.{verb}"), "main", stop)
    assert main([verb]) == 3
    assert ("checkpoint" in capsys.readouterr().err) == saves


def test_a_finished_tokenizer_replaces_what_the_recipe_says_of_training_one():
    text = f"--config={CONFIGS}/data/text.py"
    config = recipe(text, "--config.tokenizer.path=there", kind="prepare")
    assert config.tokenizer.path == "there" and config.tokenizer.vocab_size == 32_000
    assert recipe(text, "--config.tokenizer.path=", kind="prepare").tokenizer.vocab_size == 16_384
    config = recipe(
        text, "--config.tokenizer.path=there", "--config.tokenizer.vocab_size=9",
        "--config.input.paths=('x',)", kind="prepare",
    )
    with pytest.raises(UserError, match=r"vocab_size=9 has no effect: .*leave tokenizer.path out"):
        resolve_prepare(config)
