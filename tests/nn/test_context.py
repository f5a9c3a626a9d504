"""Context parallelism: rows in balanced order on several devices equal rows in order on one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.models.tower import Inputs
from jaxllm.nn.compute import make_compute
from jaxllm.nn.config import PositionConfig
from jaxllm.nn.context import Order, balanced
from jaxllm.nn.kernels.attention import Pattern, Places, attend
from jaxllm.nn.module import bind

from .reference import documents, qkv
from .test_attention import run


def test_each_device_has_a_front_and_a_back_chunk():
    np.testing.assert_array_equal(
        Order(2).places(16), [0, 1, 2, 3, 12, 13, 14, 15, 4, 5, 6, 7, 8, 9, 10, 11]
    )
    seen = np.sum(Order(4).places(64).reshape(4, 16), axis=1)  # keys of a device's queries
    assert len(set(seen)) == 1


def test_there_is_an_order_where_two_chunks_a_device_divide(sharding_of):
    assert balanced(sharding_of(context=4, data=2), 16) == Order(4)
    assert balanced(sharding_of(context=4, data=2), 12) is None
    assert balanced(sharding_of(data=8), 16) is None


def test_restore_undoes_arrange(sharding_of):
    sharding = sharding_of(context=4, data=2)
    x = np.arange(4 * 16).reshape(4, 16)
    moved = Order(4).arrange({"x": jnp.asarray(x)}, sharding)["x"]
    np.testing.assert_array_equal(moved, x[:, Order(4).places(16)])
    np.testing.assert_array_equal(Order(4).restore(jnp.asarray(moved)), x)


def on_mesh(kernel, q, k, v, pattern, segments, sharding, order):
    """As `run`, the tokens in `order` and their outputs and gradients put back."""
    if order is None:
        return run(kernel, q, k, v, pattern, segments, sharding)
    there = order.places(q.shape[1])
    back = np.argsort(there)
    pull = np.random.default_rng(9).normal(size=q.shape).astype(np.float32)[:, there]
    q, k, v = (x[:, there] for x in (q, k, v))
    segments = None if segments is None else segments[:, there]
    compute = make_compute(sharding, attention=kernel)
    places = Places(query_segments_BT=segments, key_segments_BS=segments, order=order)

    def loss(q, k, v):
        out = attend(q, k, v, pattern, places, compute)
        return jnp.sum(out * pull), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    return out[:, back], [g[:, back] for g in grads]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(("kernel", "mesh", "pattern", "packed", "order"), [
    ("splash_interpret", {"context": 2, "data": 2, "tensor": 2}, Pattern(), True, True),
    ("xla", {"context": 4, "tensor": 2}, Pattern(window=40), True, True),
    slow("splash_interpret", {"context": 2, "data": 4}, Pattern(window=150), False, True),
    slow("splash_interpret", {"context": 2, "fsdp": 4}, Pattern(softcap=2.0), True, False),
    slow("splash_interpret", {"context": 2, "data": 4}, Pattern(causal=False), True, False),
    slow("splash_interpret", {"context": 4, "data": 2}, Pattern(), False, True),
], ids=str)
def test_attention_on_parts_of_rows_equals_whole_rows(
    sharding_of, kernel, mesh, pattern, packed, order
):
    length = 128 * mesh["context"]
    q, k, v = qkv((4, length, 4, 2, 16))
    segments = documents(4, length) if packed else None
    expected, expected_grads = run("xla", q, k, v, pattern, segments)
    sharding = sharding_of(**mesh)
    out, grads = on_mesh(
        kernel, q, k, v, pattern, segments, sharding, balanced(sharding, length) if order else None
    )
    np.testing.assert_allclose(out, expected, atol=3e-6)
    for found, wanted in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(found, wanted, atol=3e-5)


def test_splash_gathers_keys_and_scatters_their_gradients(sharding_of):
    sharding = sharding_of(context=2, data=4)
    q, k, v = qkv((4, 256, 2, 1, 16))
    compute = make_compute(sharding, attention="splash_interpret")

    def loss(q, k, v):
        return jnp.sum(attend(q, k, v, Pattern(), Places(order=Order(2)), compute))

    text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, v).as_text()
    assert text.count("stablehlo.all_gather") == text.count("stablehlo.reduce_scatter") == 2


def test_a_length_that_tiles_cannot_share_is_refused(sharding_of):
    q, k, v = qkv((4, 384, 2, 1, 16))
    compute = make_compute(sharding_of(context=2, data=4), attention="splash_interpret")
    with pytest.raises(UserError, match=r"multiples of 128 x mesh\.context = 256, not 384"):
        attend(q, k, v, Pattern(), Places(), compute)


@pytest.mark.parametrize("family", [slow("gemma3"), slow("t5"), slow("alibi")])
def test_models_read_rows_in_any_order(tiny, compute, build, family):
    """Windows, relative biases and ALiBi by true places; an encoder's rows stay as they are."""
    config = tiny["llama" if family == "alibi" else family]
    if family == "alibi":
        attention = dataclasses.replace(config.attention, window=4)
        config = dataclasses.replace(
            config, positions=PositionConfig(kind="alibi"), attention=attention
        )
    structure, params = build(config, compute)
    order, (ids, segments) = Order(2), (jnp.arange(64).reshape(4, 16) % 40, documents(4, 16))
    positions = jnp.broadcast_to(jnp.arange(16), (4, 16))
    encoder = Inputs(ids[:, ::-1], positions) if family == "t5" else None
    plain = Inputs(ids, positions, None if encoder else jnp.asarray(segments), encoder=encoder)

    @jax.jit
    def run(params, inputs):
        return bind(structure, params).hidden(inputs)

    moved = order.arrange(plain._replace(encoder=None), compute.sharding)
    found = run(params, moved._replace(encoder=encoder, order=order))
    expected = run(params, plain)[:, order.places(16)]
    np.testing.assert_allclose(found, expected, atol=2e-5)
