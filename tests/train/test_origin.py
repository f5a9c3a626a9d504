"""What a run is told of the model that it starts from, and of what can become of it."""

import dataclasses

from jaxllm.core.display import make_display
from jaxllm.models.config import preset, presets
from jaxllm.train.origin import warn_unexportable


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
