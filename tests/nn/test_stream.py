"""Between sublayers the tokens are cut by tensor parallelism too, where their number allows it."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.nn import stream
from jaxllm.nn.compute import make_compute

from .test_ahead import B, T, close, gradients, loss_of


@pytest.mark.parametrize("mesh", [
    {"fsdp": 4, "tensor": 2}, pytest.param({"data": 4, "tensor": 2}, marks=pytest.mark.slow),
], ids=str)
def test_what_layers_save_is_cut_by_tensor(tiny, sharding_of, mesh):
    """In the compiled program: the inputs of seven layers, two rows of eight a device."""
    config = dataclasses.replace(tiny["llama"], layers=7).completed()
    loss, params = loss_of(config, make_compute(sharding_of(**mesh), remat="full"))
    text = jax.jit(jax.grad(loss)).lower(params).compile().as_text()
    assert f"f32[7,{B // 4},{T // 2},{config.width}]" in text
    assert not re.search(rf"f32\[7,{B // 4},{T},{config.width}\]", text)


@pytest.mark.parametrize("family", [
    pytest.param("gpt2", marks=pytest.mark.slow),  # biases
    pytest.param("bert", marks=pytest.mark.slow),  # norms after the sums, an encoder
    pytest.param("t5", marks=pytest.mark.slow), pytest.param("gemma3", marks=pytest.mark.slow),
])
def test_families_on_a_cut_stream(tiny, sharding_of, family):
    expected = gradients(tiny[family], make_compute())
    compute = make_compute(sharding_of(data=2, context=2, tensor=2), remat="full")
    close(gradients(tiny[family], compute), expected)


def test_gathers_and_scatters_turn_around_in_the_backward_pass(sharding_of):
    compute = make_compute(sharding_of(data=2, context=2, tensor=2))
    x = jnp.ones((2, 8, 4))

    def places(function):
        y, pull = jax.vjp(lambda x: function(x, compute), x)
        return y.sharding.spec[1], pull(jnp.ones_like(y))[0].sharding.spec[1]

    assert places(stream.gather) == ("context", ("context", "tensor"))
    assert places(stream.scatter) == (("context", "tensor"), "context")


@pytest.mark.parametrize("length", [1, 7])
def test_lengths_that_do_not_divide_stay_whole(sharding_of, length):
    compute = make_compute(sharding_of(data=4, tensor=2))
    x = np.ones((4, length, 4), np.float32)
    for function in (stream.pin, stream.gather, stream.scatter):
        assert jax.jit(lambda x, f=function: f(x, compute))(x).sharding.spec[1:] in ((), (None,))
