"""Filters against plain Python over one row of probabilities."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.generate.sampling import Sampling, filter_logits, sample

LOGITS = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32) * 2


def plain_kept(row, sampling):
    """Indices that may be drawn, by the definitions, one filter after the other."""
    order = sorted(range(len(row)), key=lambda i: -row[i])
    if sampling.top_k:
        order = order[: sampling.top_k]
    total = sum(math.exp(row[i]) for i in order)
    if sampling.top_p < 1:
        kept, mass = [], 0.0
        for i in order:
            if mass >= sampling.top_p:
                break
            kept.append(i)
            mass += math.exp(row[i]) / total
        order = kept
    if sampling.min_p:
        order = [i for i in order if math.exp(row[i] - row[order[0]]) >= sampling.min_p]
    return set(order)


@pytest.mark.parametrize("sampling", [
    Sampling(), Sampling(top_k=3), Sampling(top_k=100), Sampling(top_p=0.5), Sampling(top_p=1e-6),
    Sampling(min_p=0.1), Sampling(top_k=10, top_p=0.7, min_p=0.2),
], ids=str)
def test_filters_keep_what_the_definitions_keep(sampling):
    filtered = np.asarray(filter_logits(jnp.asarray(LOGITS), sampling))
    for row, result in zip(LOGITS.astype(float), filtered, strict=True):
        assert set(np.flatnonzero(np.isfinite(result))) == plain_kept(row, sampling)


def test_temperature_zero_is_greedy():
    ids = sample(jnp.asarray(LOGITS), jax.random.key(0), Sampling(temperature=0))
    np.testing.assert_array_equal(ids, LOGITS.argmax(-1))


@pytest.mark.parametrize("temperature", [1e-38, 1e-20])
def test_a_tiny_temperature_is_greedy(temperature):
    logits = jnp.array([[1.0, 5.0, 3.0], [2.0, 9.0, 1.0], [-jnp.inf, 0.0, -jnp.inf]])
    ids = sample(logits, jax.random.key(0), Sampling(temperature=temperature))
    np.testing.assert_array_equal(ids, [1, 1, 1])


def test_draws_follow_the_probabilities():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
    rows = jnp.broadcast_to(logits, (20_000, 3))
    ids = sample(rows, jax.random.key(0), Sampling(temperature=1.0))
    shares = np.bincount(np.asarray(ids)) / 20_000
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.015)
    cold = sample(rows, jax.random.key(1), Sampling(temperature=0.5))
    squares = np.array([0.25, 0.09, 0.04]) / 0.38
    np.testing.assert_allclose(np.bincount(np.asarray(cold)) / 20_000, squares, atol=0.015)


@pytest.mark.parametrize("bad", [
    {"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": 2.0},
])
def test_values_out_of_range_are_named(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        Sampling(**bad).check()
