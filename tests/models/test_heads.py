"""Heads: which hidden states stand for a text, and what each kind gives."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.models.config import preset
from jaxllm.models.heads import POOLINGS, make_head
from jaxllm.nn.config import HeadConfig
from jaxllm.nn.module import abstract

REAL = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
STATES = np.random.default_rng(0).normal(size=(4, 5, 64)).astype(np.float32)


def configured(name="llama_debug", **head):
    model = dataclasses.replace(preset(name), vocab_size=11)
    return dataclasses.replace(model, head=dataclasses.replace(model.head, **head)).completed()


def head_of(compute, **head):
    return make_head(jax.random.key(0), configured(**head), compute)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("first", lambda x, real: x[0]),
        ("last", lambda x, real: x[np.flatnonzero(real)[-1] if real.any() else 0]),
        ("mean", lambda x, real: x[real].mean(0) if real.any() else np.zeros(64)),
        ("none", lambda x, real: x),
    ],
)
def test_pooling_leaves_padding_out(pooling, expected):
    ours = POOLINGS[pooling](jnp.asarray(STATES), jnp.asarray(REAL) != 0)
    theirs = [expected(x, real != 0) for x, real in zip(STATES, REAL, strict=True)]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        ({"kind": "sequence_classification", "labels": 3}, (4, 3)),
        ({"kind": "token_classification", "labels": 3, "pooling": "none"}, (4, 5, 3)),
        ({"kind": "reward"}, (4,)),
        ({"kind": "embedding", "pooling": "mean"}, (4, 64)),
        ({"kind": "embedding", "pooling": "first", "dense": True}, (4, 64)),
    ],
)
def test_outputs_are_float32_of_the_heads_shape(compute, head, shape):
    out = head_of(compute, **head)(jnp.asarray(STATES), jnp.asarray(REAL))
    assert (out.shape, out.dtype) == (shape, jnp.float32)


def test_no_segments_is_no_padding(compute):
    head = head_of(compute, kind="embedding", pooling="mean")
    np.testing.assert_allclose(head(jnp.asarray(STATES), None), STATES.mean(1), atol=1e-6)


def test_dropout_needs_a_key(compute):
    head = head_of(compute, kind="sequence_classification", labels=3, dropout=0.5)
    states = jnp.asarray(STATES)
    plain = head(states, None)
    assert (plain == head(states, None)).all()
    assert (plain != head(states, None, jax.random.key(1))).any()


def test_the_masked_lms_transform_has_the_activation_of_its_own(compute):
    for name, activation in {"bert_debug": "", "roberta_debug": "gelu"}.items():
        config = configured(name)
        assert (config.head.kind, config.head.activation) == ("masked_lm", activation)
        relu = dataclasses.replace(config, mlp=dataclasses.replace(config.mlp, activation="relu"))
        heads = [make_head(jax.random.key(0), c, compute) for c in (config, relu)]
        one, other = (head.features(jnp.asarray(STATES)) for head in heads)
        assert np.allclose(one, other) == bool(activation)


def test_what_is_refused(compute):
    with pytest.raises(UserError, match=r"model\.head\.labels=3 with .*'reward'"):
        configured(kind="reward", labels=3)
    with pytest.raises(UserError, match=r"model\.head\.labels=0"):
        configured(kind="sequence_classification")
    with pytest.raises(UserError, match=r"model\.head\.pooling='max' is unknown"):
        abstract(partial(
            make_head, config=configured(kind="embedding", pooling="max"), compute=compute
        ))
    with pytest.raises(UserError, match=r"model\.head\.activation='swish' is unknown"):
        head_of(compute, kind="masked_lm", activation="swish")


def test_a_reward_is_one_number():
    assert configured(kind="reward").head == HeadConfig("reward", labels=1)
