"""Divergences in chunks against those of whole logits, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.nn.compute import make_compute
from jaxllm.train.divergence import jsd, kl, symmetric_kl, weighted_sum
from jaxllm.train.losses import LossOptions
from jaxllm.train.scores import Scores

B, T, D, V = 8, 12, 6, 32


def example(seed=0, vocabulary=V):
    keys = jax.random.split(jax.random.key(seed), 5)
    weights = jax.random.uniform(keys[3], (B, T)).at[:, -3:].set(0)
    return Scores(
        jax.random.normal(keys[0], (B, T, D)), jnp.zeros((B, T), jnp.int32), weights,
        jax.random.normal(keys[1], (D, vocabulary)), jax.random.normal(keys[2], (vocabulary,)),
    )


def full(side, options):
    logits = side.values @ side.kernel + side.bias
    cap = options.logit_softcap
    return cap * jnp.tanh(logits / cap) if cap else logits


def both(measure, options, compute):
    """The chunked sum and the whole one, as functions of both sides' arrays."""
    def chunked(p, q):
        return weighted_sum(measure, ((p, options), (q, options)), compute)

    def whole(p, q):
        return jnp.sum(measure(full(p, options), full(q, options)) * p.weights)

    return chunked, whole


def differentiated(function, p, q):
    def of(arrays):
        sides = [s._replace(values=a[0], kernel=a[1], bias=a[2])
                 for s, a in zip((p, q), arrays, strict=True)]
        return function(*sides)

    arrays = [(s.values, s.kernel, s.bias) for s in (p, q)]
    return jax.jit(jax.value_and_grad(of))(arrays)


@pytest.mark.parametrize("mesh", [
    {}, {"fsdp": 2, "context": 2, "tensor": 2},
    pytest.param({"data": 8}, marks=pytest.mark.thorough),
    pytest.param({"fsdp": 4, "tensor": 2}, marks=pytest.mark.thorough),
], ids=str)
@pytest.mark.parametrize("measure", [
    kl, symmetric_kl,
    lambda s, t: jsd(jax.nn.log_softmax(s / 2), jax.nn.log_softmax(t / 2), 0.3),
], ids=("kl", "symmetric", "jsd"))
def test_equals_the_whole_computation(sharding_of, mesh, measure):
    compute = make_compute(sharding_of(**mesh) if mesh else None)
    options = LossOptions(chunk=5, logit_softcap=4.0)
    chunked, whole = both(measure, options, compute)
    p, q = example(0), example(1)
    value, gradients = differentiated(chunked, p, q)
    expected, expected_gradients = differentiated(whole, p, q)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_equal_predictions_are_0_apart_and_padding_may_hold_anything():
    p = example()
    broken = p._replace(values=p.values.at[:, -3:].set(jnp.nan))
    chunked, _ = both(kl, LossOptions(chunk=4), make_compute())
    value, gradients = differentiated(chunked, broken, p)
    assert abs(float(value)) < 1e-5
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradients))


def test_a_padded_vocabulary_is_cut_to_what_both_have():
    p, q = example(0, V + 4), example(1)
    chunked, _ = both(kl, LossOptions(), make_compute())
    cut = p._replace(kernel=p.kernel[:, :V], bias=p.bias[:V])
    np.testing.assert_allclose(chunked(p, q), chunked(cut, q), rtol=1e-6)


def test_logits_never_exist_at_once():
    B, T, D, V = 4, 256, 8, 1000
    side = Scores(
        *(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (
            ((B, T, D), jnp.float32), ((B, T), jnp.int32), ((B, T), jnp.float32),
            ((D, V), jnp.float32),
        )),
    )
    options = LossOptions(chunk=16)

    def of(values, kernel, p, q):
        p = p._replace(values=values, kernel=kernel)
        return weighted_sum(kl, ((p, options), (q, options)), make_compute())

    step = jax.jit(jax.grad(of, argnums=(0, 1))).lower(side.values, side.kernel, side, side)
    assert step.compile().memory_analysis().temp_size_in_bytes < 4 * B * T * V / 2
