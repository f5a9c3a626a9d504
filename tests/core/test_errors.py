"""The wording that leads to the nearest fix."""

import pytest

from jaxllm.core.errors import UserError, nearest, unknown


@pytest.mark.parametrize(("name", "choices", "sentence"), [
    ("adamx", ["adamw", "sgd"], "Did you mean 'adamw'?"),
    ("lama", ["llama", "llama2", "gpt2"], "Did you mean 'llama' or 'llama2'?"),
    ("q", ["b", "a", "a"], "Choose one of: a, b."),
    ("q", [], "There is none to choose from."),
])
def test_nearest(name, choices, sentence):
    assert nearest(name, choices) == sentence


def test_a_long_list_is_cut():
    assert nearest("?", [f"n{i:02}" for i in range(30)]).endswith("n19 ….")


def test_unknown_names_field_and_value():
    error = unknown("optimizer.name", "adamx", ("adamw",))
    assert isinstance(error, UserError)
    assert str(error) == "optimizer.name='adamx' is unknown. Did you mean 'adamw'?"
