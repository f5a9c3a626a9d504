"""BERT's and RoBERTa's folders come in many spellings; each gives the same parameters."""

import dataclasses
import json
from functools import partial

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxllm.core.errors import UserError
from jaxllm.models.config import preset
from jaxllm.models.hf.family import family
from jaxllm.models.hf.importer import import_params, read_model_config
from jaxllm.models.hf.mapping import tensors
from jaxllm.models.transformer import Transformer
from jaxllm.nn.module import abstract

RNG = np.random.default_rng(0)


def small(name, **head):
    config = dataclasses.replace(preset(f"{name}_debug"), vocab_size=13)
    if head:
        head = dataclasses.replace(config.head, **head)
        config = dataclasses.replace(config, head=head)
    return config.completed()


def names_and_specs(config, compute):
    specs = abstract(partial(Transformer, config=config, compute=compute))[1]
    return tensors(family(config.family).names(config), specs), specs


def tensors_of(config, compute):
    table, _ = names_and_specs(config, compute)
    return {t.name: RNG.normal(size=t.shape).astype(np.float32) for t in table}


def folder(path, config, given, **changes):
    path.mkdir()
    theirs = {**family(config.family).write(config), **changes}
    (path / "config.json").write_text(json.dumps(theirs))
    save_file({name: np.ascontiguousarray(a) for name, a in given.items()},
              path / "model.safetensors")
    return path


def read(path, compute, config=None):
    config = config or read_model_config(path)
    _, specs = names_and_specs(config, compute)
    return config, import_params(path, config, specs, compute)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def old_spelling(given):
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for name, array in given.items()
    }


def bert_extras(given):
    return {
        "bert.embeddings.position_ids": np.arange(512)[None],
        "bert.pooler.dense.weight": np.ones((64, 64), np.float32),
        "bert.pooler.dense.bias": np.ones(64, np.float32),
        "cls.seq_relationship.weight": np.ones((2, 64), np.float32),
        "cls.seq_relationship.bias": np.ones(2, np.float32),
        "cls.predictions.decoder.weight": given["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": given["cls.predictions.bias"],
    }


def roberta_extras(given):
    return {
        "roberta.embeddings.position_ids": np.arange(514)[None],
        "roberta.pooler.dense.weight": np.ones((64, 64), np.float32),
        "lm_head.decoder.weight": given["roberta.embeddings.word_embeddings.weight"],
        "lm_head.decoder.bias": given["lm_head.bias"],
    }


@pytest.mark.parametrize(("name", "extras"), [("bert", bert_extras), ("roberta", roberta_extras)])
def test_copies_buffers_and_unused_heads_change_nothing(tmp_path, compute, name, extras):
    config = small(name)
    given = tensors_of(config, compute)
    plain = read(folder(tmp_path / "plain", config, given), compute)[1]
    more = old_spelling({**given, **extras(given)})
    same(plain, read(folder(tmp_path / "more", config, more), compute)[1])


def test_a_pretraining_folder_is_a_masked_lm(tmp_path, compute):
    config = small("bert")
    given = tensors_of(config, compute)
    path = folder(
        tmp_path / "x", config, {**given, **bert_extras(given)},
        architectures=["BertForPreTraining"],
    )
    assert read(path, compute)[0] == config
    _, specs = names_and_specs(config, compute)
    told = []
    import_params(path, config, specs, compute, told.append)
    assert len(told) == 1 and "cls.seq_relationship.weight" in told[0]
    assert "bert.pooler.dense.weight" in told[0] and "decoder" not in told[0]


def test_names_without_the_towers_prefix(tmp_path, compute):
    config = small("bert")
    given = tensors_of(config, compute)
    bare = {name.removeprefix("bert."): array for name, array in given.items()}
    same(
        read(folder(tmp_path / "a", config, given), compute)[1],
        read(folder(tmp_path / "b", config, bare), compute)[1],
    )


def test_an_embedding_with_the_towers_prefix_and_without(tmp_path, compute):
    config = small("bert", kind="embedding", pooling="first", dense=True)
    given = tensors_of(config, compute)
    assert "pooler.dense.weight" in given  # as transformers writes them
    prefixed = {f"bert.{name}": array for name, array in given.items()}
    same(
        read(folder(tmp_path / "a", config, given), compute)[1],
        read(folder(tmp_path / "b", config, prefixed), compute)[1],
    )


def test_an_embedding_without_a_pooler(tmp_path, compute):
    config = small("bert", kind="embedding", pooling="mean", dense=False)
    path = folder(tmp_path / "x", config, tensors_of(config, compute))
    again, params = read(path, compute)  # add_pooling_layer=False: config.json does not say it
    assert (again.head.dense, again.head.pooling) == (False, "first")
    assert "head" not in params


def test_a_classifier_needs_its_pooler(tmp_path, compute):
    config = small("bert", kind="sequence_classification", labels=3, pooling="first", dense=True)
    given = tensors_of(config, compute)
    del given["bert.pooler.dense.weight"]
    with pytest.raises(UserError, match=r"no tensor 'bert\.pooler\.dense\.weight'"):
        read(folder(tmp_path / "x", config, given), compute)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("cls.predictions.decoder.weight", "differs from bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "differs from cls.predictions.bias"),
        ("cls.other.weight", "has a tensor 'cls.other.weight'"),
    ],
)
def test_other_tensors_are_refused(tmp_path, compute, name, match):
    config = small("bert")
    given = tensors_of(config, compute)
    changed = bert_extras(given).get(name, np.ones(2, np.float32)) + 1
    with pytest.raises(UserError, match=match):
        read(folder(tmp_path / "x", config, {**given, name: changed}), compute)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_an_untied_decoder_has_the_bias_that_counts(tmp_path, compute, name):
    config = dataclasses.replace(small(name), tied=False)
    given = tensors_of(config, compute)
    bias, unused = ("cls.predictions.decoder.bias", "cls.predictions.bias") if name == "bert" \
        else ("lm_head.decoder.bias", "lm_head.bias")
    path = folder(tmp_path / "x", config, {**given, unused: given[bias] + 1})
    np.testing.assert_array_equal(read(path, compute)[1]["head"]["bias"], given[bias])
