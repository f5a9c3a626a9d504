"""The wording that leads to the nearest fix."""

import pytest

from jaxllm.core.errors import UserError, install, naming_memory, nearest, unknown


@pytest.mark.parametrize(("name", "choices", "sentence"), [
    ("adamx", ["adamw", "sgd"], "Did you mean 'adamw'?"),
    ("lama", ["llama", "llama2", "gpt2"], "Did you mean 'llama' or 'llama2'?"),
    ("LLAMA3_8B", ["llama3_8b", "llama3_70b"], "Did you mean 'llama3_8b'?"),
    ("foo", ["olmo", "phi"], "Choose one of: olmo, phi."),
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


def test_an_extra_is_installed_from_the_index_or_in_a_checkout():
    assert "pip install 'jaxllm[eval]'" in install("eval")
    assert install("eval").endswith("JAXLLM_EXTRAS=eval source launch/env.sh")


def test_only_what_is_near_when_no_list_is_wanted():
    assert nearest("foo", ["olmo"], listed=False) == ""


def test_what_does_not_fit_the_memory_is_the_users_to_mend():
    for error in (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
                  MemoryError()):
        fits = pytest.raises(UserError, match=r"A batch of 9 does not fit.*Lower --batch_size\.")
        with fits, naming_memory("A batch of 9", "Lower --batch_size."):
            raise error
    with pytest.raises(RuntimeError, match="a bug"), naming_memory("x", "y"):
        raise RuntimeError("a bug")
