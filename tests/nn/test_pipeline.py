"""A pipeline equals the layers one after the other, on one device."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from jaxllm.core.config import MeshConfig
from jaxllm.core.errors import UserError
from jaxllm.core.mesh import check_batch, check_layers, make_sharding
from jaxllm.models.tower import Inputs
from jaxllm.nn.compute import make_compute
from jaxllm.nn.kernels.attention import Places
from jaxllm.nn.module import bind

from .test_ahead import B, T, close, gradients, loss_of


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def sharding(**axes):
    return make_sharding(MeshConfig(**{"fsdp": 1, **axes}))


@pytest.mark.parametrize(("family", "layers", "mesh"), [
    ("llama", 4, {"stage": 2, "fsdp": 2, "tensor": 2, "repeats": 2, "microbatches": 4}),
    slow("llama", 8, {"stage": 2, "fsdp": 2, "tensor": 2, "repeats": 2, "microbatches": 2}),
    slow("llama", 4, {"stage": 4, "data": 2, "microbatches": 4}),
    slow("llama", 8, {"stage": 4, "fsdp": 2, "microbatches": 4, "repeats": 2}),
    slow("llama", 8, {"stage": 2, "data": 4, "microbatches": 2, "repeats": 4}),
    slow("llama", 4, {"stage": 2, "dcn": 2, "context": 2}),
    slow("gemma3", 8, {"stage": 2, "fsdp": 2, "data": 2, "repeats": 2}),
    slow("t5", 4, {"stage": 2, "fsdp": 2, "tensor": 2}),  # gradients to memory and biases
    slow("bert", 4, {"stage": 4, "fsdp": 2, "microbatches": 4}),
], ids=str)
def test_a_pipeline_equals_one_device(tiny, family, layers, mesh):
    config = dataclasses.replace(tiny[family], layers=layers)
    if family == "t5":
        encoder = dataclasses.replace(config.encoder, layers=layers)
        config = dataclasses.replace(config, encoder=encoder)
    config = config.completed()
    expected = gradients(config, make_compute())
    close(gradients(config, make_compute(sharding(**mesh), remat="full")), expected)


@pytest.mark.slow
def test_a_tick_saves_the_inputs_of_its_layers_and_no_weights(tiny):
    """Of arrays stacked over the five ticks there is one: what three layers of a stage were given.
    """
    config = dataclasses.replace(tiny["llama"], layers=12).completed()
    mesh = sharding(stage=2, fsdp=4, microbatches=2, repeats=2)
    loss, params = loss_of(config, make_compute(mesh, remat="full"))
    text = jax.jit(jax.grad(loss)).lower(params).as_text()
    stacked = set(re.findall(r"tensor<5x2x([\dx]+)xf32>", text))
    assert stacked == {f"3x{B // 2}x{T}x{config.width}"}


@pytest.mark.slow
def test_ticks_move_microbatches_and_gather_over_fsdp_only(tiny):
    config = dataclasses.replace(tiny["llama"], layers=4).completed()
    loss, params = loss_of(
        config, make_compute(sharding(stage=2, fsdp=4, microbatches=2, repeats=2), remat="full")
    )
    text = jax.jit(jax.grad(loss)).lower(params).compile().as_text()
    loops = [part for part in text.split("\n\n") if " collective-permute(" in part
             and not part.startswith("ENTRY")]
    assert loops
    width, heads = config.width, config.attention.heads * config.attention.head_dim
    for line in "\n".join(loops).splitlines():
        if " all-gather(" in line:  # a layer's weights; not those of the other stages
            sizes = [int(n) for n in re.search(r"f32\[([\d,]*)\]", line)[1].split(",")]
            assert np.prod(sizes) <= heads * width, line
        if " collective-permute(" in line:
            assert re.search(rf"f32\[1,1,{T},{width}\]", line), line


@pytest.mark.slow
def test_microbatches_drop_out_each_its_own(tiny, build):
    config = dataclasses.replace(tiny["llama"], dropout=0.5)
    compute = make_compute(sharding(stage=2, data=4, microbatches=2))
    structure, params = build(config, compute)
    inputs = Inputs(np.full((B, T), 3), np.broadcast_to(np.arange(T), (B, T)))

    @jax.jit
    def run(params, key):
        model = bind(structure, params)
        x = model.embedding(inputs.ids)
        keys, context = jax.random.split(key, config.layers), model.decoder._context(
            inputs, Places(), None
        )
        return model.decoder.layers.pipeline(
            lambda layer, place, x, key, context: layer(x, place, context, key)[0],
            x, keys, context, compute, 2,
        )

    first, again, other = (run(params, jax.random.key(n)) for n in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert len({row.tobytes() for row in np.asarray(first)}) == B


def test_rows_are_cut_where_they_divide():
    mesh = sharding(stage=2, data=4)
    assert [mesh.pipeline(rows) for rows in (64, 32, 16, 8, 4, 12)] == [8, 8, 4, 2, 0, 0]
    assert sharding(stage=2, data=4, microbatches=4).pipeline(64) == 4
    assert sharding(data=8).pipeline(64) == 0
    check_batch(mesh, 24, "size")  # as much as the least that keeps both stages at work
    with pytest.raises(UserError, match=r"in each of 2 microbatches\. Use size=8 or 16"):
        check_batch(mesh, 12, "size")
    with pytest.raises(UserError, match=r"in each of 8 microbatches\. Use size=32\."):
        check_batch(sharding(stage=2, data=4, microbatches=4), 16, "size", 2)


@pytest.mark.parametrize(("mesh", "message"), [
    ({"stage": 4, "data": 2, "microbatches": 6}, r"=6 cannot be shared by .*microbatches=4 or 8\."),
    ({"data": 8, "microbatches": 4}, r"mesh\.microbatches=4 has no meaning with mesh\.stage=1"),
    ({"data": 8, "repeats": 2}, r"mesh\.repeats=2 has no meaning with mesh\.stage=1"),
    ({"stage": 8, "repeats": 0}, r"mesh\.repeats=0 .*Set it to 1\."),
])
def test_schedules_that_cannot_be_are_refused(mesh, message):
    with pytest.raises(UserError, match=message):
        sharding(**mesh)


@pytest.mark.parametrize(("mesh", "layers", "group", "message"), [
    ({"stage": 4, "data": 2}, 6, 1, r"6 layers .* mesh\.stage=4 .* mesh\.stage=3 or mesh\.stage=6"),
    ({"stage": 2, "data": 4, "repeats": 3}, 8, 1, r"Use mesh\.repeats=2 or mesh\.repeats=4"),
    ({"stage": 4, "data": 2}, 13, 6, r"2 repetitions of 6 layers .* Use mesh\.stage=2"),
])
def test_layers_that_stages_cannot_share_are_refused(mesh, layers, group, message):
    with pytest.raises(UserError, match=message):
        check_layers(sharding(**mesh), layers, group)
    check_layers(sharding(data=8), layers, group)
