"""`LoadedModel.score` against the full forward pass, text by text."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers import byte
from jaxllm.generate.model import LoadedModel, _score
from jaxllm.models.load import Model


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def loaded(request, tiny, compute, build):
    tokenizer = byte.ByteTokenizer()
    config = tiny[request.param]
    positions = dataclasses.replace(config.positions, max_length=24)
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size, positions=positions)
    structure, params = build(config, compute, seed=3)
    return LoadedModel(Model(config, compute, structure, params, 0), tokenizer)


def plain_score(loaded, text):
    ids = np.array(loaded.tokenizer.encode(text))
    model = loaded.model.bind(loaded.model.params)
    logits = model.logits(model.hidden(ids[None], jnp.arange(len(ids))[None]))[0]
    scores = np.asarray(jax.nn.log_softmax(logits))
    return [scores[i, token] for i, token in enumerate(ids[1:])]


def test_equals_the_plain_forward_pass(loaded):
    texts = ["to be", "or not to be, that is it"]  # the second fills all 24 positions
    for text, scores in zip(texts, loaded.score(texts), strict=True):
        np.testing.assert_allclose(scores, plain_score(loaded, text), rtol=1e-5, atol=1e-5)


def test_lengths_share_a_program(loaded):
    loaded.score("abcdefgh")
    programs = _score._cache_size()
    for length in range(2, 17):
        loaded.score("x" * length)
    assert _score._cache_size() == programs


def test_texts_that_cannot_be_scored(loaded):
    with pytest.raises(UserError, match="'a' has 1 tokens"):
        loaded.score(["ab", "a"])
    if loaded.model.config.positions.kind == "learned":
        with pytest.raises(UserError, match=r"=25 is longer than the model's 24 learned positions"):
            loaded.score("x" * 25)
    else:
        assert len(loaded.score("x" * 25)[0]) == 24
