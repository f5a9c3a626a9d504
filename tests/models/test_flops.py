"""Analytic FLOPs against the matrix products that jax traces and XLA counts."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxllm.models.adapters import trained
from jaxllm.models.adapters.config import AdapterConfig, LoraConfig
from jaxllm.models.flops import (
    forward_flops_per_row,
    kernel_params,
    mean_context,
    train_flops_per_row,
)
from jaxllm.models.tower import Inputs
from jaxllm.models.transformer import Transformer
from jaxllm.nn.module import abstract, bind, split
from jaxllm.train.state import merged, parted

LENGTH = 32


@pytest.mark.parametrize(("length", "window", "expected"), [
    (8, 0, 4.0), (8, 8, 4.0), (8, 100, 4.0), (8, 4, 3.0), (8, 1, 0.9375), (1024, 0, 512.0),
])
def test_mean_context_by_hand(length, window, expected):
    assert mean_context(length, window) == expected


@pytest.mark.parametrize("length", [1, 7, 64])
@pytest.mark.parametrize("window", [0, 1, 5, 64, 70])
def test_mean_context_is_half_a_key_below_the_exact_mean_at_most(length, window):
    exact = sum(min(i + 1, window or length) for i in range(length)) / length
    assert exact - 0.5 <= mean_context(length, window) <= exact


def products(jaxpr):
    """FLOPs of every dot_general in a jaxpr, loops counted as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracting, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            out = math.prod(equation.outvars[0].aval.shape)
            total += 2 * out * math.prod(left[axis] for axis in contracting)
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
                total += repeats * products(inner)
    return total


def forward(config, compute):
    """(function of params and ids, abstract arguments, specs)."""
    make = partial(Transformer, config=config, compute=compute)
    structure, specs = abstract(make)
    params = jax.eval_shape(lambda key: split(make(key))[1], jax.random.key(0))

    def run(params, ids):
        model = bind(structure, params)
        positions = jnp.broadcast_to(jnp.arange(LENGTH), ids.shape)
        return model.logits(model.hidden(Inputs(ids, positions)))

    return run, (params, jax.ShapeDtypeStruct((2, LENGTH), jnp.int32)), specs


def full_attention(config):
    """What plain attention computes beyond the causal half, per row."""
    attention = config.attention
    missing = LENGTH - mean_context(LENGTH, attention.window)
    return config.layers * LENGTH * 4 * attention.heads * attention.head_dim * missing


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_forward_flops_are_the_products_traced(tiny, compute, family):
    config = dataclasses.replace(
        tiny[family], positions=dataclasses.replace(tiny[family].positions, max_length=LENGTH)
    )
    run, arguments, specs = forward(config, compute)
    counted = products(jax.make_jaxpr(run)(*arguments).jaxpr) / 2
    expected = forward_flops_per_row(config, specs, LENGTH)
    assert counted == expected + full_attention(config)
    assert train_flops_per_row(config, specs, LENGTH) == 3 * expected


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_training_flops_of_adapters_are_the_products_traced(tiny, compute, quantization):
    """All of the forward pass, gradients of its activations, and of the adapters alone."""
    lora = LoraConfig(r=4, target_modules=("all-linear",))
    adapter = AdapterConfig("lora", lora=lora, quantization=quantization)
    config = dataclasses.replace(  # in whole blocks of nf4
        tiny["llama"], width=64, adapter=adapter,
        mlp=dataclasses.replace(tiny["llama"].mlp, width=128),
    )
    run, (params, ids), specs = forward(config, compute)
    ours, frozen = parted(params, trained(specs, adapter))

    def loss(ours, frozen, ids):
        return run(merged(ours, frozen), ids).sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(ours, frozen, ids).jaxpr
    found = products(jaxpr) / 2 - 3 * full_attention(config)
    expected = train_flops_per_row(config, specs, LENGTH)
    # the first layer's queries, keys and values need no gradient of their inputs
    assert expected * 0.9 < found <= expected * 1.001


def test_forward_flops_are_what_xla_counts(tiny, compute):
    """Unrolled, since XLA counts a loop's body once; XLA adds what is no product."""
    config = dataclasses.replace(tiny["llama"], width=256, mlp=dataclasses.replace(
        tiny["llama"].mlp, width=512), vocab_size=512)
    run, arguments, specs = forward(config, dataclasses.replace(compute, unroll=config.layers))
    counted = jax.jit(run).lower(*arguments).cost_analysis()["flops"] / 2
    expected = forward_flops_per_row(config, specs, LENGTH) + full_attention(config)
    assert 1.0 <= counted / expected < 1.03


def test_kernel_params_leave_out_what_is_looked_up(tiny, compute):
    def parameters(family, tied):
        config = dataclasses.replace(tiny[family], tied=tied)
        return kernel_params(forward(config, compute)[2])

    layer = 32 * 4 * 16 + 2 * 32 * 2 * 16 + 4 * 16 * 32 + 3 * 32 * 40
    assert parameters("llama", False) == 2 * layer + 32 * 48
    assert parameters("llama", True) == 2 * layer  # the tied head is the embedding's table
    assert parameters("gpt2", True) == 2 * (4 * 32 * 32 + 2 * 32 * 56)


def test_a_tied_head_costs_what_an_untied_does(tiny, compute):
    def flops(tied):
        config = dataclasses.replace(tiny["llama"], tied=tied)
        return forward_flops_per_row(config, forward(config, compute)[2], LENGTH)

    assert flops(True) == flops(False)


def test_an_encoder_decoder_and_an_encoder(tiny, compute):
    """Both towers, cross-attention, and keys and values of the encoder's tokens."""
    config = tiny["t5"]
    make = partial(Transformer, config=config, compute=compute)
    structure, specs = abstract(make)
    params = jax.eval_shape(lambda key: split(make(key))[1], jax.random.key(0))
    own, theirs = 8, 20

    def run(params, ids, encoder_ids):
        model = bind(structure, params)
        encoder = Inputs(encoder_ids, jnp.zeros_like(encoder_ids))
        return model.logits(model.hidden(Inputs(ids, jnp.zeros_like(ids), encoder=encoder)))

    shapes = [jax.ShapeDtypeStruct((1, n), jnp.int32) for n in (own, theirs)]
    counted = products(jax.make_jaxpr(run)(params, *shapes).jaxpr)
    heads, head_dim = config.attention.heads, config.attention.head_dim
    missing = config.layers * own * 4 * heads * head_dim * (own - mean_context(own))
    assert counted == forward_flops_per_row(config, specs, own, theirs) + missing
