"""`jaxllm generate` with a stand-in for the model: what it asks, what it says of the answers."""

from types import SimpleNamespace

import pytest

from jaxllm.cli.main import main
from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers import byte
from jaxllm.data.tokenizers.chat import named
from jaxllm.generate.defaults import Defaults
from jaxllm.generate.model import LoadedModel
from jaxllm.generate.rows import Completion


class Told(LoadedModel):
    """Gives the completions that it was made with, and keeps what it was asked."""

    def __init__(self, tokenizer, completions):
        super().__init__(SimpleNamespace(config=SimpleNamespace(architecture="decoder")), tokenizer)
        self.completions, self.defaults = completions, Defaults()

    def generate(self, prompts, *, on_text=None, **how):
        self.asked = prompts
        for index, completion in enumerate(self.completions if on_text else ()):
            on_text(index, completion.text)
        return self.completions


@pytest.fixture
def told(monkeypatch):
    """A function that makes the stand-in `jaxllm generate` loads."""

    def make(*completions, template=None):
        tokenizer = byte.ByteTokenizer()
        tokenizer = tokenizer if template is None else tokenizer.with_chat_template(template)
        model = Told(tokenizer, completions)
        monkeypatch.setattr("jaxllm.generate.model.load", lambda name: model)
        return model

    return make


ENDED = Completion("", (), "stop")


def test_a_text_that_ends_at_once_is_said_to(told, capsys):
    told(ENDED)
    assert main(["generate", "--model=m", "--prompt=Nay"]) == 0
    assert "The model ended the text at once" in capsys.readouterr().err
    told(Completion("a", (97,), "stop"), ENDED)
    assert main(["generate", "--model=m", "--prompt=Nay", "--prompt=Aye"]) == 0
    assert "ended the text of prompt 2 at once" in capsys.readouterr().err
    told(Completion("", (97,), "stop"))  # a stop string came first
    assert main(["generate", "--model=m", "--prompt=Nay", "--stop=a"]) == 0
    assert not capsys.readouterr().err


def test_chat_asks_by_the_template_and_shows_the_question_and_the_answer(told, capsys):
    model = told(Completion("Yes.", (1, 2), "stop"), template=named("alpaca", len))
    assert main(["generate", "--model=m", "--chat", "--prompt=Is it?"]) == 0
    [asked] = model.asked
    assert asked.endswith("### Instruction:\nIs it?\n\n### Response:\n")
    assert capsys.readouterr().out == "Is it?\nYes.\n"
    assert main(["generate", "--model=m", "--prompt=Is it?"]) == 0
    assert model.asked == ["Is it?"] and capsys.readouterr().out == "Is it?Yes.\n"


def test_chat_without_a_template_is_refused(told, capsys):
    told(ENDED)
    assert main(["generate", "--model=m", "--chat", "--prompt=Is it?"]) == 2
    assert "has no chat template" in capsys.readouterr().err
    with pytest.raises(UserError, match="no chat template"):
        told(ENDED).as_chat("Is it?")
