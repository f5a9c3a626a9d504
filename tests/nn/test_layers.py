"""Linear maps against einsum and its autodiff; embeddings and dropout against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.nn.compute import make_compute
from jaxllm.nn.layers import Embedding, Linear, dropout, project, residual_stddev
from jaxllm.nn.module import bind, split


@pytest.mark.parametrize(("inputs", "x_shape", "kernel_shape", "equation"), [
    (1, (2, 3, 5), (5, 7), "btd,df->btf"),
    (1, (2, 3, 5), (5, 4, 6), "btd,dnh->btnh"),
    (2, (2, 3, 4, 6), (4, 6, 5), "btnh,nhd->btd"),
    (1, (2, 3, 30), (30, 4, 6), "btd,dnh->btnh"),  # fewer outputs than inputs
    (1, (5,), (5, 7), "d,df->f"),
])
def test_project_and_its_gradient_equal_einsum(inputs, x_shape, kernel_shape, equation):
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in (x_shape, kernel_shape))

    def loss(apply, x, kernel):
        y = apply(x, kernel)
        return jnp.sum(jnp.sin(y)), y

    def both(apply):
        return jax.jit(
            jax.value_and_grad(lambda x, k: loss(apply, x, k), (0, 1), has_aux=True)
        )(x, kernel)

    (_, y), grads = both(lambda x, k: project(inputs, None, x, k))
    (_, expected), expected_grads = both(lambda x, k: jnp.einsum(equation, x, k))
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    for a, b in zip(grads, expected_grads, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_project_keeps_low_precision():
    x, kernel = jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 4), jnp.bfloat16)
    y, pull = jax.vjp(lambda x, k: project(1, None, x, k), x, kernel)
    assert {a.dtype for a in (y, *pull(y))} == {jnp.dtype(jnp.bfloat16)}


def test_linear(compute):
    layer = Linear(
        jax.random.key(0), compute, {"embed": 5}, {"heads": 2, "head_dim": 3}, stddev=0.5, bias=True
    )
    layer.bias.set_value(jnp.arange(6.0).reshape(2, 3))
    x = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)
    expected = np.einsum("btd,dnh->btnh", x, np.asarray(layer.kernel[...])) + layer.bias[...]
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)
    plain = Linear(jax.random.key(0), compute, {"embed": 5}, {"mlp": 3}, stddev=0.5)
    assert plain.bias is None


def test_initial_values(compute):
    kernel = Linear(
        jax.random.key(1), compute, {"embed": 200}, {"mlp": 300}, stddev=0.03
    ).kernel[...]
    assert abs(float(jnp.std(kernel)) - 0.03) < 3e-4 and abs(float(jnp.mean(kernel))) < 4e-4
    assert residual_stddev(0.02, 8, False) == 0.02
    assert residual_stddev(0.02, 8, True) == pytest.approx(0.005)


def test_embedding(compute):
    table = Embedding(jax.random.key(0), compute, 7, 4, stddev=1.0)
    weights = np.asarray(table.table[...])
    ids = np.array([[0, 6, 3], [2, 2, 1]])
    np.testing.assert_array_equal(table(ids), weights[ids])
    np.testing.assert_array_equal(table.as_head(), weights.T)


def test_dropout():
    x = jnp.ones((200, 100))
    y = dropout(x, 0.3, jax.random.key(0))
    assert abs(float(jnp.mean(y == 0)) - 0.3) < 0.02
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)
    assert dropout(x, 0.3, None) is x and dropout(x, 0.0, jax.random.key(0)) is x
    assert dropout(x.astype(jnp.bfloat16), 0.3, jax.random.key(0)).dtype == jnp.bfloat16


@pytest.mark.parametrize("mesh", [{"fsdp": 8}, {"fsdp": 2, "context": 2, "tensor": 2}], ids=str)
@pytest.mark.parametrize("limit", [2**28, 700])
def test_a_table_in_blocks_is_looked_up_as_a_whole_one(sharding_of, monkeypatch, mesh, limit):
    """Ids that repeat, the first and the last; blocks that do not divide the table."""
    monkeypatch.setattr("jaxllm.nn.layers.LOOKUP_BYTES", limit)
    ids = jax.random.randint(jax.random.key(1), (8, 4), 0, 38).at[0, 0].set(37).at[0, 1].set(0)
    factor = jax.random.normal(jax.random.key(2), (8, 4, 16))

    def run(compute):
        structure, params = split(Embedding(jax.random.key(0), compute, 38, 16, stddev=1.0))

        def loss(params):
            return jnp.sum(bind(structure, params)(ids) * factor)

        return jax.device_get(jax.jit(jax.value_and_grad(loss))(params))

    found, expected = run(make_compute(sharding_of(**mesh))), run(make_compute())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
    )
