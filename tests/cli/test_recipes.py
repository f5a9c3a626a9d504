"""Recipes and overrides that are wrong: one paragraph with the place, the reason and the fix."""

import importlib
from pathlib import Path

import pytest

from jaxllm.cli.flags import parse
from jaxllm.cli.main import main
from jaxllm.cli.recipes import as_defaults
from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import TokenizerConfig
from jaxllm.data.prepare.config import resolve_config as resolve_prepare
from jaxllm.train.config import EvalConfig
from jaxllm.train.config import resolve_config as resolve_train

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
    ("def get_config(v=''):\n    raise SystemExit\n", r"line 2 fails: SystemExit\.$"),
    ("import sys\nsys.exit('no GPU')\n", r"line 2 fails: SystemExit: no GPU\."),
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


def test_mistakes_of_a_recipe_name_it(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"^--config=.*quickstart\.py:debugg: The recipe .*'debug'"):
        recipe(f"{QUICKSTART}:debugg")
    (tmp_path / "recipe.txt").touch()
    with pytest.raises(UserError, match=r"^--config=.*recipe\.txt: It is no recipe"):
        recipe(f"--config={tmp_path}/recipe.txt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as told:
        recipe("--config=configs/llama.py")
    assert f"from the current folder, {tmp_path}, which has none" in str(told.value)


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


@pytest.mark.parametrize(("verb", "arguments", "message"), [
    ("generate", ("--seed=-1",), r"--seed=-1 must lie between 0 and 4294967295\.$"),
    ("generate", ("--seed=4294967296",), r"--seed=4294967296 must lie between"),
    ("generate", (f"--max_new_tokens={10**20}",), r"--max_new_tokens=10+ must lie between"),
    ("preview", (QUICKSTART, f"--step={10**20}"), r"--step=10+ must lie between -2147483647 and"),
])
def test_a_number_that_no_device_holds(verb, arguments, message):
    module = importlib.import_module(f"jaxllm.cli.{verb}")
    with pytest.raises(UserError, match=message):
        module.main(list(arguments))


def test_a_file_may_have_more_bytes_than_int32_counts():
    define = importlib.import_module("jaxllm.cli.convert")._define
    _, values = parse(["--shard_bytes=6000000000"], "doc", define, config=False, workdir=False)
    assert values.shard_bytes == 6 * 10**9


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


@pytest.mark.parametrize("arguments", [
    ("--config.tokenizer.kind=byte",), ("--config.tokenizer.kind", "byte"),
    ("--config.tokenizer.kind=char", "--config.tokenizer.kind=byte"),
])
def test_another_kind_of_tokenizer_replaces_what_it_does_not_read(arguments):
    text = (f"--config={CONFIGS}/data/text.py", "--config.input.paths=('x',)")
    config = recipe(*text, *arguments, kind="prepare")
    assert resolve_prepare(config).tokenizer == TokenizerConfig(kind="byte")
    config = recipe(*text, "--config.tokenizer.kind=sentencepiece", kind="prepare")
    assert resolve_prepare(config).tokenizer.vocab_size == 16_384
    config = recipe(*text, *arguments, "--config.tokenizer.vocab_size=5", kind="prepare")
    with pytest.raises(UserError, match=r"vocab_size=5 has no effect: tokenizer.kind='byte'"):
        resolve_prepare(config)


def test_what_the_recipe_says_of_prompts_gives_way_to_none():
    debug, none = f"{QUICKSTART}:debug", "--config.eval.prompts=()"
    assert resolve_train(recipe(debug, none)).eval == EvalConfig(batches=2)
    with pytest.raises(UserError, match=r"sample_tokens=5 has no effect: eval\.prompts is empty"):
        resolve_train(recipe(debug, none, "--config.eval.sample_tokens=5"))


def test_what_is_given_and_is_the_default_is_told():
    given = ["--config.train.steps=5", "--config.seed=42", "--config=x.py", "--config.seed", "42"]
    assert as_defaults(given, {"train.steps": 5}) == ["seed"]
    assert as_defaults(["--config.eval.prompts[0]=a"], {"eval.prompts": ("a",)}) == []
