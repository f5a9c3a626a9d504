"""Generation with the cache against the full forward pass repeated for every token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers import byte
from jaxllm.generate.beams import BeamSearch
from jaxllm.generate.decode import generate
from jaxllm.generate.sampling import Sampling
from jaxllm.generate.steps import TokenRules
from jaxllm.models.config import preset
from jaxllm.models.load import Model
from jaxllm.models.tower import Inputs
from jaxllm.nn.config import EncoderConfig, HeadConfig
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
        hidden = bound.hidden(Inputs(ids[None], jnp.arange(width)[None]))
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
    with pytest.raises(UserError, match=r"prompt 2 is no Unicode .* character 3 is '\\udcff'"):
        generate(model, tokenizer, ["a", "é \udcff"])
    with pytest.raises(UserError, match="max_new_tokens=0"):
        generate(model, tokenizer, ["a"], max_new_tokens=0)
    with pytest.raises(UserError, match=r"max_new_tokens=10+ must be at most"):
        generate(model, tokenizer, ["a"], max_new_tokens=10**9)
    for seed in (-1, 2**32, 10**20):
        with pytest.raises(UserError, match=rf"seed={seed} must lie between 0 and"):
            generate(model, tokenizer, ["a"], seed=seed)
    if model.config.positions.kind == "learned":
        with pytest.raises(UserError, match="64 learned positions"):
            generate(model, tokenizer, ["a" * 64])
        warnings = []
        completion = generate(model, tokenizer, ["a" * 60], max_new_tokens=50, sampling=GREEDY,
                              warn=warnings.append)[0]
        assert len(completion.token_ids) <= 4
        assert "at most 4 tokens after a prompt of 60 tokens, not max_new_tokens=50" in warnings[0]
        generate(model, tokenizer, ["a" * 60], max_new_tokens=4, warn=warnings.append)
        assert len(warnings) == 1


@pytest.fixture(scope="module")
def encoder_decoder(compute, build, tokenizer):
    """A T5 of 4 decoder and 2 encoder layers."""
    config = dataclasses.replace(
        preset("t5_debug"), vocab_size=tokenizer.vocab_size, layers=4,
        encoder=EncoderConfig(layers=2),
    ).completed()
    structure, params = build(config, compute, seed=1)
    return Model(config, compute, structure, params, 0)


@pytest.mark.thorough
def test_an_encoder_decoder_answers_its_prompt(encoder_decoder, tokenizer):
    model, prompts = encoder_decoder, ["to be or", "a"]
    completions = generate(model, tokenizer, prompts, max_new_tokens=12, sampling=GREEDY)
    bound = bind(model.structure, model.params)
    for prompt, completion in zip(prompts, completions, strict=True):
        read = jnp.array([tokenizer.with_special_tokens(tokenizer.encode(prompt))[0]])
        encoder = Inputs(read, jnp.arange(read.shape[1])[None])
        ids = np.array([[tokenizer.pad_id, *completion.token_ids]])
        hidden = bound.hidden(Inputs(ids, jnp.arange(ids.shape[1])[None], encoder=encoder))
        likeliest = np.argmax(bound.logits(hidden)[0, :-1], axis=-1)
        assert len(completion.token_ids) == 12
        np.testing.assert_array_equal(completion.token_ids, likeliest)


def test_rows_of_an_encoder_decoder_do_not_depend_on_each_other(encoder_decoder, tokenizer):
    model = encoder_decoder
    how = {"max_new_tokens": 10, "beams": BeamSearch(3, length_penalty=0.5)}
    together = generate(model, tokenizer, ["abc", "a much longer prompt"], **how)
    alone = generate(model, tokenizer, ["abc"], **how)
    assert together[0] == alone[0]


@pytest.mark.slow
def test_more_beams_find_likelier_texts(model, tokenizer):
    def log_probability(completion):
        ids = np.array([[*tokenizer.encode("To be"), *completion.token_ids]])
        hidden = bound.hidden(Inputs(ids, jnp.arange(ids.shape[1])[None]))
        log_p = jax.nn.log_softmax(bound.logits(hidden)[0], axis=-1)
        return sum(log_p[i - 1, ids[0, i]] for i in range(5, ids.shape[1]))

    bound = bind(model.structure, model.params)
    how = {"max_new_tokens": 8, "stop": ["never"]}
    [greedy] = generate(model, tokenizer, ["To be"], sampling=GREEDY, **how)
    [one] = generate(model, tokenizer, ["To be"], beams=BeamSearch(1), **how)
    [wide] = generate(model, tokenizer, ["To be"], beams=BeamSearch(8), **how)
    assert one == greedy
    assert log_probability(wide) >= log_probability(greedy)


def test_a_bidirectional_prefix_sees_the_whole_prompt(compute, build, tiny, tokenizer):
    config = dataclasses.replace(
        tiny["llama"], vocab_size=tokenizer.vocab_size, bidirectional_prefix=True
    )
    structure, params = build(config, compute, seed=3)
    model, prompts = Model(config, compute, structure, params, 0), ["To be", "not to be, that"]
    bound = bind(structure, params)
    causal = Model(
        dataclasses.replace(config, bidirectional_prefix=False), compute,
        *build(dataclasses.replace(config, bidirectional_prefix=False), compute, seed=3), 0,
    )
    completions = generate(model, tokenizer, prompts, max_new_tokens=10, sampling=GREEDY)
    for prompt, completion in zip(prompts, completions, strict=True):
        read = len(tokenizer.encode(prompt))
        ids = np.array([[*tokenizer.encode(prompt), *completion.token_ids]])
        row = jnp.arange(ids.shape[1])[None]
        logits = bound.logits(bound.hidden(Inputs(ids, row, prefix=(row < read).astype(int))))
        likeliest = np.argmax(logits[0, read - 1 : -1], axis=-1)
        np.testing.assert_array_equal(completion.token_ids, likeliest)
    assert completions != generate(
        causal, tokenizer, prompts, max_new_tokens=10, sampling=GREEDY
    )


def test_forced_tokens_and_several_ends(model, tokenizer):
    free = generate(model, tokenizer, ["abc"], max_new_tokens=9, sampling=GREEDY)[0].token_ids
    end = TokenRules((tokenizer.eos_id, free[4]))
    cut = generate(model, tokenizer, ["abc"], max_new_tokens=9, sampling=GREEDY, rules=end)[0]
    assert cut.token_ids == free[: free.index(free[4])]
    assert cut.finish_reason == "stop"
    forced = TokenRules((tokenizer.eos_id,), first_id=65, last_id=66)
    text = generate(model, tokenizer, ["abc"], max_new_tokens=9, seed=1, rules=forced)[0]
    assert (text.token_ids[0], text.token_ids[-1]) == (65, 66)


def test_a_model_that_writes_nothing_says_what_it_can_do(compute, tiny, tokenizer):
    def refusal(**changes):
        config = dataclasses.replace(tiny["llama"], **changes)
        model = Model(config, compute, None, None, 0)
        with pytest.raises(UserError) as error:
            generate(model, tokenizer, ["a"])
        return str(error.value)

    assert "fill in masked" in refusal(architecture="encoder", head=HeadConfig("masked_lm"))
    classifier = HeadConfig("sequence_classification", labels=2)
    assert "LoadedModel.classify" in refusal(head=classifier)
    assert "LoadedModel.embed" in refusal(architecture="encoder", head=HeadConfig("embedding"))


@pytest.mark.parametrize("bad", [{"beams": 0}, {"early_stopping": "soon"}])
def test_a_beam_search_out_of_range_is_named(model, tokenizer, bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        generate(model, tokenizer, ["a"], beams=BeamSearch(**bad))
