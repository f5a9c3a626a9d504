"""Generation with the cache against the full forward pass repeated for every token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers import byte
from jaxllm.generate.decode import generate
from jaxllm.generate.sampling import Sampling
from jaxllm.models.load import Model
from jaxllm.nn.module import bind

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def tokenizer():
    return byte.ByteTokenizer()


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request, tiny, compute, build, tokenizer):
    config = tiny[request.param]
    positions = dataclasses.replace(config.positions, max_length=64)
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size, positions=positions)
    structure, params = build(config, compute, seed=3)
    return Model(config, compute, structure, params, 0)


def greedy_without_cache(model, ids, count):
    """The likeliest next token, again and again, from scratch each time."""
    width = len(ids) + count

    @jax.jit
    def next_token(params, ids, length):
        bound = bind(model.structure, params)
        hidden = bound.hidden(ids[None], jnp.arange(width)[None])
        return jnp.argmax(bound.logits(hidden)[0, length - 1])

    row = np.zeros(width, np.int32)
    row[: len(ids)] = ids
    for length in range(len(ids), width):
        row[length] = next_token(model.params, row, length)
    return row[len(ids) :].tolist()


def test_equals_generation_without_a_cache(model, tokenizer):
    prompts = ["To be", "or", "not to be, that"]
    completions = generate(model, tokenizer, prompts, max_new_tokens=20, sampling=GREEDY)
    for prompt, completion in zip(prompts, completions, strict=True):
        expected = greedy_without_cache(model, tokenizer.encode(prompt), 20)
        if tokenizer.eos_id in expected:
            expected = expected[: expected.index(tokenizer.eos_id)]
        assert list(completion.token_ids) == expected
        assert completion.text == tokenizer.decode(expected)


def test_a_row_does_not_depend_on_the_others(model, tokenizer):
    together = generate(model, tokenizer, ["abc", "a longer prompt"], sampling=GREEDY,
                        max_new_tokens=10)
    alone = generate(model, tokenizer, ["abc"], sampling=GREEDY, max_new_tokens=10)
    assert together[0] == alone[0]


def test_streamed_text_is_the_text(model, tokenizer):
    shown = ["", ""]

    def collect(row, text):
        shown[row] += text

    completions = generate(
        model, tokenizer, ["abc", "xyz"], max_new_tokens=30, on_text=collect, seed=5,
        stop=["zzzz"],
    )
    assert shown == [completion.text for completion in completions]


def test_a_stop_string_ends_the_row_and_is_not_shown(model, tokenizer):
    free = generate(model, tokenizer, ["abc"], max_new_tokens=12, sampling=GREEDY)[0]
    stop = free.text[3:5]
    shown = []
    stopped = generate(
        model, tokenizer, ["abc"], max_new_tokens=12, sampling=GREEDY, stop=[stop],
        on_text=lambda row, text: shown.append(text),
    )[0]
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[: free.text.index(stop)] == "".join(shown)


def test_the_seed_decides_the_draws(model, tokenizer):
    first, again, other = (
        generate(model, tokenizer, ["abc"], max_new_tokens=12, seed=seed)[0] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_mistakes_are_named(model, tokenizer):
    with pytest.raises(UserError, match="prompt 2 is empty"):
        generate(model, tokenizer, ["a", ""])
    with pytest.raises(UserError, match="max_new_tokens=0"):
        generate(model, tokenizer, ["a"], max_new_tokens=0)
    if model.config.positions.kind == "learned":
        with pytest.raises(UserError, match="64 learned positions"):
            generate(model, tokenizer, ["a" * 64])
        completion = generate(model, tokenizer, ["a" * 60], max_new_tokens=50, sampling=GREEDY)[0]
        assert len(completion.token_ids) <= 4
