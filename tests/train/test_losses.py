"""The chunked loss against log_softmax over the whole logits, differentiated by JAX."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.nn.compute import make_compute
from jaxllm.train.loss_chunks import chunk_size
from jaxllm.train.losses import LossOptions, cross_entropy, only_targets

B, T, D, V = 3, 10, 8, 37


def full_loss(hidden, kernel, targets, weights, options, bias=0.0):
    logits = jnp.einsum("btd,dv->btv", hidden, kernel) + bias
    if options.logit_softcap:
        logits = options.logit_softcap * jnp.tanh(logits / options.logit_softcap)
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    onehot = jax.nn.one_hot(targets, kernel.shape[1])
    wanted = onehot * (1 - options.label_smoothing) + options.label_smoothing / kernel.shape[1]
    loss = -(wanted * log_probabilities).sum(-1)
    loss += options.z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
    return (loss * weights).sum()


@pytest.fixture(scope="module")
def example():
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (B, T, D))
    kernel = jax.random.normal(keys[1], (D, V))
    targets = jax.random.randint(keys[2], (B, T), 0, V)
    weights = jax.random.uniform(keys[3], (B, T)).at[:, -3:].set(0)
    return hidden, kernel, targets, weights


@pytest.mark.parametrize("chunk", [0, 3, 10])
@pytest.mark.parametrize("extra", [
    {}, {"z_loss": 1e-2}, {"label_smoothing": 0.1}, {"logit_softcap": 3.0},
    {"z_loss": 1e-2, "label_smoothing": 0.1, "logit_softcap": 3.0},
], ids=lambda extra: "+".join(extra) or "plain")
def test_loss_and_gradients_equal_the_full_computation(example, chunk, extra):
    options, compute = LossOptions(chunk=chunk, **extra), make_compute()
    hidden, kernel, targets, weights = example

    def ours(hidden, kernel):
        return cross_entropy(hidden, kernel, targets, weights, options, compute).loss

    def theirs(hidden, kernel):
        return full_loss(hidden, kernel, targets, weights, options)

    loss, gradients = jax.value_and_grad(ours, argnums=(0, 1))(hidden, kernel)
    expected, expected_gradients = jax.value_and_grad(theirs, argnums=(0, 1))(hidden, kernel)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(ours(hidden, kernel), expected, rtol=1e-5)  # not differentiated
    for ours_, theirs_ in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours_, theirs_, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("chunk", [3, 10])
@pytest.mark.parametrize("extra", [{}, {"z_loss": 1e-2, "logit_softcap": 3.0}], ids=str)
def test_a_bias_of_the_logits(example, chunk, extra):
    """BERT's and BART's; its gradient too."""
    options, compute = LossOptions(chunk=chunk, **extra), make_compute()
    hidden, kernel, targets, weights = example
    bias = jax.random.normal(jax.random.key(7), (V,))

    def ours(hidden, kernel, bias):
        return cross_entropy(hidden, kernel, targets, weights, options, compute, bias).loss

    def theirs(hidden, kernel, bias):
        return full_loss(hidden, kernel, targets, weights, options, bias)

    loss, gradients = jax.value_and_grad(ours, (0, 1, 2))(hidden, kernel, bias)
    expected, expected_gradients = jax.value_and_grad(theirs, (0, 1, 2))(hidden, kernel, bias)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(ours(hidden, kernel, bias), expected, rtol=1e-5)
    for a, b in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("mesh", [
    {"fsdp": 8}, {"fsdp": 2, "context": 2, "tensor": 2},
    pytest.param({"data": 2, "fsdp": 2, "tensor": 2}, marks=pytest.mark.thorough),
], ids=str)
@pytest.mark.parametrize(("block", "chunk"), [(0, 0), (5, 4)])
@pytest.mark.parametrize("extra", [
    {}, {"z_loss": 1e-2, "label_smoothing": 0.1, "logit_softcap": 3.0},
], ids=lambda extra: "+".join(extra) or "plain")
def test_in_blocks_of_the_vocabulary(sharding_of, mesh, block, chunk, extra):
    """A projection that FSDP cuts: blocks that do not divide it, each device along it its own."""
    B, T, D, V = 8, 12, 8, 36
    keys = jax.random.split(jax.random.key(0), 5)
    hidden, bias = jax.random.normal(keys[0], (B, T, D)), jax.random.normal(keys[4], (V,))
    kernel = jax.random.normal(keys[1], (D, V))
    targets = jax.random.randint(keys[2], (B, T), 0, V)
    weights = jax.random.uniform(keys[3], (B, T)).at[:, -3:].set(0)
    options = LossOptions(block=block, chunk=chunk, accuracy=True, **extra)
    compute = make_compute(sharding_of(**mesh))

    def ours(hidden, kernel, bias):
        sums = cross_entropy(hidden, kernel, targets, weights, options, compute, bias)
        return sums.loss, sums

    def theirs(hidden, kernel, bias):
        return full_loss(hidden, kernel, targets, weights, options, bias)

    arguments = (hidden, kernel, bias)
    (loss, sums), gradients = jax.jit(jax.value_and_grad(ours, (0, 1, 2), has_aux=True))(*arguments)
    expected, expected_gradients = jax.value_and_grad(theirs, (0, 1, 2))(*arguments)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for a, b in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    plain = cross_entropy(hidden, kernel, targets, weights, options, make_compute(), bias)
    np.testing.assert_allclose(sums.correct, plain.correct, rtol=1e-6)
    np.testing.assert_allclose(sums.nll, plain.nll, rtol=1e-5)


def test_nll_and_weight_are_the_plain_sums(example):
    hidden, kernel, targets, weights = example
    options = LossOptions(chunk=4, z_loss=0.1, label_smoothing=0.2)
    sums = cross_entropy(hidden, kernel, targets, weights, options, make_compute())
    plain = full_loss(hidden, kernel, targets, weights, LossOptions())
    np.testing.assert_allclose(sums.nll, plain, rtol=1e-5)
    np.testing.assert_allclose(sums.weight, weights.sum(), rtol=1e-6)
    assert sums.loss > sums.nll


def test_padding_may_hold_anything(example):
    hidden, kernel, targets, weights = example
    broken = hidden.at[:, -3:].set(jnp.inf)
    options = LossOptions(chunk=4)

    def loss(hidden):
        return cross_entropy(hidden, kernel, targets, weights, options, make_compute()).nll

    np.testing.assert_allclose(loss(broken), loss(hidden), rtol=1e-6)


@pytest.mark.parametrize("differentiate", [False, True])
def test_logits_never_exist_at_once(differentiate):
    B, T, D, V = 4, 256, 8, 1000
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (
            ((B, T, D), jnp.float32), ((D, V), jnp.float32), ((B, T), jnp.int32),
            ((B, T), jnp.float32),
        )
    ]

    def loss(hidden, kernel, targets, weights):
        options = LossOptions(chunk=16)
        return cross_entropy(hidden, kernel, targets, weights, options, make_compute()).loss

    function = jax.grad(loss, argnums=(0, 1)) if differentiate else loss
    memory = jax.jit(function).lower(*shapes).compile().memory_analysis()
    full_logits = 4 * B * T * V
    assert memory.temp_size_in_bytes < full_logits / 4


def test_chunk_size_follows_the_vocabulary():
    compute = make_compute()
    assert chunk_size(LossOptions(), compute, 2, 64, 65) == 64
    assert chunk_size(LossOptions(chunk=8), compute, 2, 64, 65) == 8
    size = chunk_size(LossOptions(), compute, 8, 4096, 128_256)
    assert size >= 1 and 4 * 8 * size * 128_256 <= 2 * 16 * 2**20


def test_devices_add_up_once_and_not_in_every_chunk(sharding_of):
    """Inside the loop over chunks no collective moves more than a scalar's worth per row."""
    compute = make_compute(sharding_of(data=4, tensor=2))
    B, T, D, V = 8, 32, 16, 256
    arrays = (
        jnp.ones((B, T, D)), jnp.ones((D, V)), jnp.zeros((B, T), jnp.int32), jnp.ones((B, T)),
    )
    places = (("batch", None, None), ("embed", "vocab"), ("batch", None), ("batch", None))
    arrays = [
        jax.device_put(x, compute.sharding.named(axes))
        for x, axes in zip(arrays, places, strict=True)
    ]

    def loss(hidden, kernel, targets, weights):
        return cross_entropy(hidden, kernel, targets, weights, LossOptions(chunk=8), compute).loss

    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arrays).compile().as_text()
    computations = re.split(r"\n(?=%|ENTRY)", text)
    bodies = set(re.findall(r"body=(%[\w.\-]+)", text))
    assert bodies
    moved = [
        line for part in computations if part.split(" ")[0] in bodies for line in part.splitlines()
        if re.search(r" (all-reduce|all-gather|reduce-scatter|all-to-all)(-start)?\(", line)
    ]
    for line in moved:  # log Z and the target's logit over the cut vocabulary: [P, B, C]
        sizes = [math.prod(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]",
                 line.split("=")[1].split("all-")[0]) if dims]
        assert max(sizes, default=0) <= B * 8 * D, line


def test_places_of_targets_are_a_number_that_devices_can_share():
    weights = jnp.zeros((2, 12)).at[:, jnp.array([1, 4, 9])].set(1.0)
    arrays = (jnp.ones((2, 12, 4)), jnp.ones((2, 12), jnp.int32), weights)
    for parts, count in ((1, 3), (2, 4), (5, 5)):
        hidden, targets, kept = only_targets(LossOptions(targets_per_row=3), *arrays, parts)
        assert hidden.shape == (2, count, 4) and targets.shape == kept.shape == (2, count)
        assert float(kept.sum()) == 6
