"""Layers gathered one ahead equal layers scanned; the backward pass keeps what was asked."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.models.parameters import param_shardings
from jaxllm.models.tower import Inputs
from jaxllm.models.transformer import Transformer
from jaxllm.nn.ahead import scan_ahead
from jaxllm.nn.compute import REMAT, REMAT_OFFLOADS, make_compute
from jaxllm.nn.config import MlpConfig
from jaxllm.nn.mlp import Mlp
from jaxllm.nn.module import abstract, bind, split

B, T = 8, 8


def loss_of(config, compute):
    """`loss(params)` of a model, and its parameters in their places."""
    structure, specs = abstract(lambda key: Transformer(key, config, compute))
    init = jax.jit(
        lambda key: split(Transformer(key, config, compute))[1],
        out_shardings=param_shardings(specs, compute.sharding),
    )
    params = init(jax.random.key(0))
    ids = jnp.arange(B * T).reshape(B, T) % 40
    segments = jnp.where(jnp.arange(T) < 5, 1, 2)[None].repeat(B, 0)
    positions = jnp.broadcast_to(jnp.arange(T), (B, T))
    encoder = Inputs(ids[::-1], positions) if config.architecture == "encoder_decoder" else None
    inputs = Inputs(ids, positions, segments, encoder=encoder)

    def loss(params, key=None):
        model = bind(structure, params)
        return jnp.mean(jnp.sin(model.logits(model.hidden(inputs, key))))

    return loss, params


def gradients(config, compute, key=None):
    loss, params = loss_of(config, compute)
    return jax.device_get(jax.jit(jax.value_and_grad(loss))(params, key))


def close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
    )


@pytest.mark.parametrize(("family", "mesh"), [
    pytest.param("llama", {"fsdp": 8}, marks=pytest.mark.slow),
    pytest.param("llama", {"data": 2, "fsdp": 2, "tensor": 2}, marks=pytest.mark.thorough),
    # a pattern of two layers, and one layer apart
    pytest.param("gemma3", {"fsdp": 4, "context": 2}, marks=pytest.mark.slow),
    # biases and an encoder's output are shared by the layers and have gradients
    pytest.param("t5", {"data": 4, "fsdp": 2}, marks=pytest.mark.slow),
])
def test_gathered_ahead_equals_one_device(tiny, sharding_of, family, mesh):
    expected = gradients(tiny[family], make_compute())
    close(gradients(tiny[family], make_compute(sharding_of(**mesh), remat="full")), expected)


@pytest.mark.parametrize(("mesh", "remat"), [
    ({"fsdp": 8}, "kv_offload"),
    pytest.param({"data": 8, "fsdp": 1}, "kv_input_offload", marks=pytest.mark.thorough),
    *(pytest.param(mesh, remat, marks=pytest.mark.slow) for mesh in (
        {"data": 2, "fsdp": 2, "tensor": 2}, {"fsdp": 4, "context": 2},
        {"stage": 2, "fsdp": 4, "microbatches": 2},
    ) for remat in ("full_input_offload", "kv_offload")),
    *(pytest.param({"fsdp": 8}, remat, marks=pytest.mark.slow) for remat in REMAT_OFFLOADS),
], ids=str)
def test_what_comes_back_from_the_host_is_what_went_there(tiny, sharding_of, mesh, remat):
    """Against the same values kept on the device; nothing of the layers' inputs is left there."""
    kept = remat.removesuffix("_offload").removesuffix("_input")
    expected = gradients(tiny["llama"], make_compute(sharding_of(**mesh), remat=kept))
    found = gradients(tiny["llama"], make_compute(sharding_of(**mesh), remat=remat))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(("remat", "inputs"), [("full", 1), ("full_input_offload", 0)])
def test_the_inputs_of_the_layers_are_saved_in_one_place(tiny, sharding_of, remat, inputs):
    config = dataclasses.replace(tiny["llama"], layers=7).completed()
    loss, params = loss_of(config, make_compute(sharding_of(fsdp=8), remat=remat))
    text = str(jax.make_jaxpr(jax.grad(loss))(params))
    stacked = rf"f32(<host>)?\[7,{B},{T},{config.width}\]"
    places = {bool(found) for found in re.findall(stacked, text)}
    assert places == {not inputs}, places


def test_a_device_without_the_hosts_memory_is_refused(monkeypatch):
    class Memory:
        kind = "device"

    class Device:
        device_kind, platform = "toy", "cpu"

        def addressable_memories(self):
            return [Memory()]

    class Sharding:
        class mesh:
            devices = np.array([Device()])

    with pytest.raises(UserError, match=r"train.remat='kv_offload'.*a toy.*train.remat='full'"):
        make_compute(Sharding(), remat="kv_offload")


@pytest.mark.slow
@pytest.mark.parametrize("remat", [n for n in REMAT if n != "full" and n not in REMAT_OFFLOADS])
def test_remat_changes_no_gradient(tiny, sharding_of, remat):
    expected = gradients(tiny["llama"], make_compute())
    compute = make_compute(sharding_of(data=4, fsdp=2), remat=remat)
    close(gradients(tiny["llama"], compute), expected)


@pytest.mark.slow
def test_dropout_is_that_of_one_device(tiny, sharding_of):
    config = dataclasses.replace(tiny["llama"], dropout=0.2)
    key = jax.random.key(3)
    expected = gradients(config, make_compute(), key)
    close(gradients(config, make_compute(sharding_of(fsdp=8)), key), expected)


def test_full_remat_keeps_only_the_inputs_of_the_layers(tiny, sharding_of):
    """Of arrays stacked over the layers there are parameters, their gradients, and one stream."""
    config = dataclasses.replace(tiny["llama"], layers=7).completed()
    compute = make_compute(sharding_of(fsdp=8), remat="full")
    loss, params = loss_of(config, compute)
    text = jax.jit(jax.grad(loss)).lower(params).as_text()
    stacked = set(re.findall(r"tensor<7x([\dx]+)xf32>", text))
    kernels = {"x".join(map(str, p.shape[1:])) for p in jax.tree.leaves(params) if p.shape[0] == 7}
    # one layer's slice has a leading 1, and places of a pattern of one are stacked as 1
    plain = {s.removeprefix("1x") for s in stacked} - kernels
    assert plain == {f"{B}x{T}x{config.width}"}


def test_collectives_are_gathers_and_scatters_by_name(tiny, sharding_of):
    """Nothing of a layer's size is all-reduced, and no product is cut into a ring of permutes."""
    compute = make_compute(sharding_of(fsdp=8), remat="full")
    loss, params = loss_of(tiny["llama"], compute)
    shardings = param_shardings(
        abstract(lambda key: Transformer(key, tiny["llama"], compute))[1], compute.sharding
    )
    text = jax.jit(jax.grad(loss), out_shardings=shardings).lower(params).compile().as_text()
    assert "reduce-scatter" in text and "all-gather" in text
    width = tiny["llama"].width
    for line in text.splitlines():
        if " all-reduce(" in line:
            sizes = [int(np.prod([int(n) for n in dims.split(",") if n] or [1]))
                     for dims in re.findall(r"f32\[([\d,]*)\]", line.split(" all-reduce(")[0])]
            assert max(sizes) <= width * tiny["llama"].vocab_size, line


@pytest.mark.parametrize("mesh", [{"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2},
                                  {"fsdp": 2, "context": 2, "tensor": 2}], ids=str)
@pytest.mark.parametrize("gated", [True, False])
def test_an_mlp_in_chunks_equals_a_whole_one(sharding_of, mesh, gated):
    config = MlpConfig(width=24, gated=gated, activation="gelu_tanh")
    x = jax.random.normal(jax.random.key(1), (8, 12, 16))

    def run(compute):
        structure, params = split(
            Mlp(jax.random.key(0), compute, 16, config, stddev=0.3, output_stddev=0.3)
        )

        def loss(params, x):
            return jnp.mean(jnp.sin(bind(structure, params)(x)))

        jaxpr = jax.make_jaxpr(jax.grad(loss))(params, x)
        return str(jaxpr), jax.device_get(jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x))

    chunked = dataclasses.replace(make_compute(sharding_of(**mesh), remat="full"), mlp_chunk=4)
    (whole_text, expected), (text, found) = run(make_compute()), run(chunked)
    assert "scan" in text and "scan" not in whole_text
    close(found, expected)


def test_the_backward_scan_is_a_scan_of_plain_steps():
    """Against autodiff of a Python loop, with an array that is shared and one that is not."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"w": jax.random.normal(keys[0], (6, 5, 5)) / 3}
    x, own = jax.random.normal(keys[1], (3, 5)), jax.random.normal(keys[2], (6, 5))
    shared = {"learned": jax.random.normal(keys[3], (5,)), "given": jnp.arange(3)}

    def step(sign):
        def run(weights, x, own, shared):
            at = x[shared["given"]] @ weights["w"]
            return x + sign * jnp.tanh(at * own + shared["learned"])
        return run

    steps = (step(1.0), step(-0.5))

    def ahead(params, x, learned):
        given = {"learned": learned, "given": shared["given"]}
        return jnp.mean(scan_ahead(steps, lambda w: w, lambda g: g, params, x, own, given) ** 2)

    def looped(params, x, learned):
        for i in range(6):
            weights = {"w": params["w"][i]}
            given = {"learned": learned, "given": shared["given"]}
            x = steps[i % 2](weights, x, own[i], given)
        return jnp.mean(x ** 2)

    arguments = (params, x, shared["learned"])
    found = jax.value_and_grad(ahead, (0, 1, 2))(*arguments)
    expected = jax.value_and_grad(looped, (0, 1, 2))(*arguments)
    close(found, expected)
