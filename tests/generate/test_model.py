"""`LoadedModel` against the full forward pass, text by text."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.data.config import DataConfig
from jaxllm.data.objectives import make_objective
from jaxllm.data.rows.formats import Chat
from jaxllm.data.rows.labels import Labels
from jaxllm.data.tokenizers import byte
from jaxllm.data.tokenizers.chat import named
from jaxllm.generate.defaults import Defaults
from jaxllm.generate.model import LoadedModel
from jaxllm.generate.steps import check_prompts
from jaxllm.generate.texts import _score
from jaxllm.models.config import preset
from jaxllm.models.load import Model
from jaxllm.models.tower import Inputs
from jaxllm.nn.config import EmbeddingConfig, HeadConfig


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
    logits = model.logits(model.hidden(Inputs(ids[None], jnp.arange(len(ids))[None])))[0]
    scores = np.asarray(jax.nn.log_softmax(logits))
    return [scores[i, token] for i, token in enumerate(ids[1:])]


def test_equals_the_plain_forward_pass(loaded):
    texts = ["to be", "or not to be, that is it"]  # the second fills all 24 positions
    for text, scores in zip(texts, loaded.score(texts), strict=True):
        np.testing.assert_allclose(scores, plain_score(loaded, text), rtol=1e-5, atol=1e-5)


def test_it_prints_as_what_it_is(loaded):
    family = loaded.model.config.family
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(loaded.model.params))
    assert repr(loaded) == f"LoadedModel({family}, {count:,} parameters, step 0)"


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


def with_head(tiny, compute, build, family="gpt2", **changes):
    """A model with this head, whose tokenizer wraps texts as BERT's does."""
    tokenizer = byte.ByteTokenizer(mask=True)
    config = dataclasses.replace(tiny[family], vocab_size=tokenizer.vocab_size, **changes)
    structure, params = build(config.completed(), compute, seed=3)
    return LoadedModel(Model(config, compute, structure, params, 0), tokenizer)


@pytest.mark.parametrize(("head", "shape"), [
    (HeadConfig("sequence_classification", labels=3, pooling="mean", dense=True), (3,)),
    (HeadConfig("token_classification", labels=3, pooling="none"), (None, 3)),
    *(pytest.param(*case, marks=pytest.mark.thorough) for case in (
        (HeadConfig("sequence_classification", labels=3), (3,)),
        (HeadConfig("reward", labels=1), ()),
        (HeadConfig("embedding", pooling="first"), (32,)),
    )),
], ids=lambda value: value.kind if isinstance(value, HeadConfig) else "")
def test_heads_do_not_see_padding(tiny, compute, build, head, shape):
    loaded = with_head(tiny, compute, build, architecture="encoder", tied=False, head=head)
    run = loaded.embed if head.kind == "embedding" else loaded.classify
    texts = ["to be", "or not to be, that is", "x"]
    together = run(texts)
    assert len(together) == 3
    for text, outputs in zip(texts, together, strict=True):
        expected = tuple(len(text) + 2 if size is None else size for size in shape)
        assert outputs.shape == expected
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, run(text)[0], rtol=1e-4, atol=1e-5)


def test_pairs_have_types(tiny, compute, build):
    loaded = with_head(
        tiny, compute, build, architecture="encoder", tied=False,
        head=HeadConfig("sequence_classification", labels=2, pooling="first"),
        embedding=EmbeddingConfig(types=2),
    )
    [scores] = loaded.classify("ab", pairs="cd")
    t = loaded.tokenizer
    ids = np.array([[t.cls_id, 97, 98, t.sep_id, 99, 100, t.sep_id]])
    types = np.array([[0, 0, 0, 0, 1, 1, 1]])
    model = loaded.model.bind(loaded.model.params)
    expected = model.text_outputs(Inputs(ids, np.arange(7)[None], types=types))[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(scores - loaded.classify("abcd")[0]).max() > 1e-3
    with pytest.raises(UserError, match="2 texts and 1 pairs"):
        loaded.classify(["a", "b"], pairs=["c"])


@pytest.mark.thorough
def test_a_classifier_of_two_towers_reads_the_text_in_both(compute, build):
    head = HeadConfig("sequence_classification", labels=4, dense=True)
    loaded = with_head({"bart": preset("bart_debug")}, compute, build, "bart", head=head)
    t, [scores] = loaded.tokenizer, loaded.classify("abc")
    read = np.array([[t.cls_id, 97, 98, 99, t.sep_id]])
    row = np.arange(5)[None]
    ids = np.array([[t.pad_id, *read[0, :-1]]])
    model = loaded.model.bind(loaded.model.params)
    expected = model.text_outputs(Inputs(ids, row, encoder=Inputs(read, row)))[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_masks_are_filled_as_the_plain_forward_pass_says(tiny, compute, build):
    loaded = with_head(tiny, compute, build, "bert")
    t, texts = loaded.tokenizer, ["a<mask>c<mask>", "<mask>", "a longer text <mask>"]
    found = loaded.fill_mask(texts, top=3)
    assert [len(masks) for masks in found] == [2, 1, 1]
    ids = np.array([[t.cls_id, 97, t.mask_id, 99, t.mask_id, t.sep_id]])
    model = loaded.model.bind(loaded.model.params)
    shares = jax.nn.softmax(model.logits(model.hidden(Inputs(ids, np.arange(6)[None]))))[0]
    for filled, place in zip(found[0], (2, 4), strict=True):
        best = np.argsort(-shares[place])[:3]
        assert [one.id for one in filled] == best.tolist()
        np.testing.assert_allclose([one.probability for one in filled], shares[place][best], 1e-4)
        assert filled[0].text == t.token_text(filled[0].id)
    with pytest.raises(UserError, match="'abc' has no mask: write <mask>"):
        loaded.fill_mask("abc")


def test_no_texts_have_no_embeddings(tiny, compute, build):
    loaded = with_head(
        tiny, compute, build, architecture="encoder", tied=False, head=HeadConfig("embedding")
    )
    assert loaded.embed([]).shape == (0, 32)


def test_no_prompts_have_no_completions(loaded):
    assert loaded.generate([]) == [] == loaded.score([])


def test_a_stop_may_be_one_text(loaded):
    free = loaded.generate("abc", max_new_tokens=12, temperature=0)[0].text
    assert loaded.generate("abc", max_new_tokens=12, temperature=0, stop="zq#\n" + free) == \
        loaded.generate("abc", max_new_tokens=12, temperature=0)
    stop = free[3:5]
    one, listed = (
        loaded.generate("abc", max_new_tokens=12, temperature=0, stop=given)[0]
        for given in (stop, [stop])
    )
    assert one == listed and one.finish_reason == "stop"


def test_texts_that_are_no_unicode(loaded, tiny, compute, build):
    with pytest.raises(UserError, match=r"text 2 is no Unicode text: its character 1 is"):
        loaded.score(["ab", "\ud800b"])
    head = HeadConfig("sequence_classification", labels=2, pooling="mean")
    classifier = with_head(tiny, compute, build, architecture="encoder", tied=False, head=head)
    with pytest.raises(UserError, match=r"pair 1 is no Unicode text"):
        classifier.classify("a", pairs="\udcfe")


def test_no_new_tokens_are_not_the_default(loaded):
    with pytest.raises(UserError, match="max_new_tokens=0 must be at least 1"):
        loaded.generate("a", max_new_tokens=0)


def test_verbs_that_the_head_cannot_do(loaded):
    with pytest.raises(UserError, match="not fill_mask"):
        loaded.fill_mask("a<mask>")
    with pytest.raises(UserError, match="it can generate, not classify"):
        loaded.classify("a")
    with pytest.raises(UserError, match="head of 'embedding'"):
        loaded.embed("a")


def test_options_that_exclude_each_other(loaded):
    with pytest.raises(UserError, match="temperature has no effect with beams=3"):
        loaded.generate("a", beams=3, temperature=0.5)
    with pytest.raises(UserError, match="length_penalty has no effect without"):
        loaded.generate("a", length_penalty=2.0)


def test_the_folders_defaults_hold_where_nothing_is_said(loaded):
    defaults = Defaults(max_new_tokens=3, temperature=0.0, beams=2, length_penalty=0.5)
    own = LoadedModel(loaded.model, loaded.tokenizer, defaults)
    same = loaded.generate("abc", max_new_tokens=3, beams=2, length_penalty=0.5)
    assert own.generate("abc") == same
    assert own.generate("abc", beams=1) == loaded.generate(
        "abc", max_new_tokens=3, temperature=0
    )


def test_a_chat_is_asked_with_the_ids_that_tuning_trains_on():
    """The template's special tokens are tokens, and none is added before them."""
    tokenizer = byte.ByteTokenizer().with_chat_template(named("chatml", len))
    model = LoadedModel(None, tokenizer)
    [asked] = model.as_chat("Is it?")
    config = SimpleNamespace(
        architecture="decoder", head=HeadConfig(), positions=SimpleNamespace(kind="rope")
    )
    [ids], _ = check_prompts(config, tokenizer, [asked], 4)
    talk = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "Yes."}]
    data = DataConfig(64, objective="sft", assistant_only_loss=True)
    objective = make_objective(data, lambda: tokenizer)
    [trained] = objective.encode([(Chat(talk, (), None), "f, line 1")], Labels(()))
    assert trained["ids"][: len(ids)].tolist() == ids
    assert not trained["trained"][: len(ids)].any() and trained["trained"][len(ids)]
    assert tokenizer.eos_id in ids  # the end of the user's turn
    [plain], _ = check_prompts(config, tokenizer, [str(asked)], 4)
    assert tokenizer.eos_id not in plain  # text of a user names no special token
