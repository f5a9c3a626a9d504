"""What a run is told of the model that it starts from, and of what can become of it."""

import dataclasses

import pytest

from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.models.config import preset, presets
from jaxllm.models.load import find_model
from jaxllm.train.origin import naming_init_from, warn_unexportable


def test_a_model_that_cannot_be_exported_is_told_of_before_training(capsys):
    able = {name: config for name, config in presets().items() if name != "gpt3_13b"}
    for name, config in able.items():
        warn_unexportable(config, make_display())
        assert not capsys.readouterr().err, name
    warn_unexportable(preset("gpt3_13b"), make_display())  # 5140 wide with 40 heads of 128
    assert "cannot say this model" in capsys.readouterr().err
    odd = dataclasses.replace(preset("llama_debug"), architecture="encoder")
    warn_unexportable(odd, make_display())
    error = capsys.readouterr().err
    assert "cannot be exported" in error and "model.architecture='encoder'" in error


@pytest.mark.parametrize(("name", "says"), [
    ("runs/debug/llama", "jaxllm train --config=configs/llama.py:debug --workdir=runs/debug/llama"),
    ("runs/debug/domain", "--config=configs/tune/domain.py:debug --workdir=runs/debug/domain"),
    ("runs/debug/other", "there is no runs/debug/other."),
    ("models/base", "there is no models/base."),
])
def test_a_missing_debug_run_is_told_with_the_command_that_makes_it(
    tmp_path, monkeypatch, name, says
):
    recipes = tmp_path / "configs" / "tune"
    recipes.mkdir(parents=True)
    (recipes.parent / "llama.py").touch()
    (recipes / "domain.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as told, naming_init_from(name):
        find_model(name)
    assert str(told.value).endswith(says)
