"""The step's properties: accumulation, sharding and non-finite values change nothing they must not.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxllm.core.checkpoint import Checkpoints
from jaxllm.core.config import MeshConfig
from jaxllm.core.mesh import Sharding, make_mesh, make_sharding, single_device
from jaxllm.data.batch import Batch
from jaxllm.models.config import preset
from jaxllm.nn.compute import make_compute
from jaxllm.nn.config import MlpConfig
from jaxllm.train.config import OptimizerConfig
from jaxllm.train.feed import batch_shapes, local_rows, place
from jaxllm.train.losses import LossOptions
from jaxllm.train.program import abstract_state
from jaxllm.train.state import TrainState, init_state, make_setup
from jaxllm.train.step import jit_train_step

B, T, V = 8, 16, 64


def setup_for(sharding, model="llama_debug", optimizer=None, **compute):
    config = dataclasses.replace(preset(model), vocab_size=V).completed()
    optimizer = optimizer or OptimizerConfig(learning_rate=1e-2, warmup_steps=2)
    return make_setup(config, make_compute(sharding, **compute), optimizer, 20)


def batch_at(step):
    """Two documents a row, some padding, some targets without weight."""
    rng = np.random.default_rng(step)
    ids = rng.integers(0, V, (B, T + 1)).astype(np.int32)
    cut = rng.integers(4, T - 4, (B, 1))
    place_BT = np.arange(T)[None]
    segments = np.where(place_BT < cut, 1, 2).astype(np.int32)
    segments[:, -2:] = 0
    positions = np.where(place_BT < cut, place_BT, place_BT - cut).astype(np.int32)
    weights = ((segments > 0) & (place_BT != cut - 1)).astype(np.float32)
    return Batch(ids[:, :-1], ids[:, 1:], weights, positions, segments)


def curve(sharding, steps=20, accumulation=1, **options):
    setup = setup_for(sharding, **options)
    state = init_state(setup, seed=0)
    step = jit_train_step(setup, LossOptions(chunk=8), accumulation, seed=0)
    rows, losses = local_rows(sharding, B), []
    for index in range(steps):
        state, metrics = step(state, place(batch_at(index), sharding, rows, B))
        losses.append(float(metrics["loss"]))
    return np.array(losses), state


@pytest.fixture(scope="module")
def reference():
    return curve(single_device())


def mesh_cases():
    slow = pytest.mark.slow
    yield {"data": 2, "fsdp": 2, "tensor": 2}
    yield pytest.param({"data": 2, "context": 2, "stage": 2}, marks=pytest.mark.thorough)
    yield from (
        pytest.param(mesh, marks=slow)
        for mesh in (
            {"fsdp": 8}, {"data": 8}, {"fsdp": 4, "tensor": 2}, {"fsdp": 2, "expert": 4},
            {"fsdp": 2, "context": 2, "tensor": 2}, {"dcn": 2, "fsdp": 2, "tensor": 2},
            {"dcn": 2, "stage": 2, "fsdp": 2}, {"stage": 2, "context": 2, "tensor": 2},
        )
    )


@pytest.mark.parametrize(
    "mesh", list(mesh_cases()), ids=lambda mesh: "-".join(f"{k}{v}" for k, v in mesh.items())
)
def test_sharded_equals_unsharded(reference, mesh):
    sharding = make_sharding(MeshConfig(**({"fsdp": 1} | mesh)))
    losses, state = curve(sharding)
    np.testing.assert_allclose(losses, reference[0], rtol=1e-5)
    for ours, theirs in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(reference[1].params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)  # Adam divides small by small
    for (path, x), spec in zip(
        jax.tree_util.tree_leaves_with_path(state.params),
        jax.tree.leaves(setup_for(sharding).shardings.params), strict=True,
    ):
        assert x.sharding.is_equivalent_to(spec, x.ndim), path


def test_the_state_is_born_in_its_shards():
    sharding = Sharding(make_mesh(MeshConfig(fsdp=4, tensor=2)))
    setup = setup_for(sharding)
    state = init_state(setup, seed=0)
    kernel = state.params["decoder"]["layers"]["layer"]["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 8 == kernel.size
    moments = [
        x for path, x in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if "up" in jax.tree_util.keystr(path)
    ]
    assert len(moments) == 2  # Adam's two
    assert all(m.sharding.is_equivalent_to(kernel.sharding, m.ndim) for m in moments)
    alone = init_state(setup_for(single_device()), seed=0)
    for ours, theirs in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(alone.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("mesh", [
    {"fsdp": 2, "data": 2, "tensor": 2}, pytest.param({"fsdp": 8}, marks=pytest.mark.slow),
], ids=str)
@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("adafactor", marks=pytest.mark.slow)])
def test_the_state_is_updated_in_its_memory(mesh, optimizer):
    """What the compiled step aliases is all of a device's state: nothing of it is there twice."""
    sharding = Sharding(make_mesh(MeshConfig(**mesh)))
    setup = setup_for(sharding, optimizer=OptimizerConfig(name=optimizer), remat="full")

    def bytes_of(shape, place):
        return int(np.prod(place.shard_shape(shape.shape), dtype=int)) * shape.dtype.itemsize

    def placed(shape, place):
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)

    state = jax.tree.map(placed, setup.shapes, setup.shardings)
    batch = batch_shapes(batch_at(0), sharding, B)
    compiled = jit_train_step(setup, LossOptions(), 1, seed=0).lower(state, batch).compile()
    expected = sum(jax.tree.leaves(jax.tree.map(bytes_of, setup.shapes, setup.shardings)))
    assert compiled.memory_analysis().alias_size_in_bytes == expected


def test_accumulation_equals_the_whole_batch(reference):
    losses, _ = curve(single_device(), accumulation=4)
    np.testing.assert_allclose(losses, reference[0], rtol=1e-5)


@pytest.mark.parametrize("options", [
    {"remat": "projections", "unroll": 2}, pytest.param({"remat": "full"}, marks=pytest.mark.slow),
], ids=str)
def test_memory_options_change_no_loss(reference, options):
    losses, _ = curve(single_device(), steps=5, **options)
    np.testing.assert_allclose(losses, reference[0][:5], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muon", "adafactor", "lion", "sgd"])
def test_every_optimizer_shards(name):
    sharding = Sharding(make_mesh(MeshConfig(fsdp=4, tensor=2)))
    optimizer = OptimizerConfig(name=name, learning_rate=1e-3)
    losses, _ = curve(sharding, steps=3, optimizer=optimizer)
    alone, _ = curve(single_device(), steps=3, optimizer=optimizer)
    np.testing.assert_allclose(losses, alone, rtol=1e-4)


def test_factored_statistics_lie_along_the_dimensions_they_keep():
    """Rows lack the larger of the two large dimensions, columns the smaller."""
    sharding = Sharding(make_mesh(MeshConfig(fsdp=2, tensor=2, stage=2)))
    config = dataclasses.replace(preset("llama_debug"), width=128, vocab_size=256)
    config = dataclasses.replace(config, mlp=MlpConfig(width=384)).completed()
    setup = make_setup(config, make_compute(sharding), OptimizerConfig(name="adafactor"), 20)
    found = {
        jax.tree_util.keystr(path): (shape.shape, place.spec)
        for (path, shape), place in zip(
            jax.tree_util.tree_leaves_with_path(setup.shapes.opt_state),
            jax.tree.leaves(setup.shardings.opt_state), strict=True,
        )
    }
    up = {name.split(".")[1].split("[")[0]: value for name, value in found.items()
          if "['up']" in name}
    assert up == {  # of [layers, embed, mlp]
        "v_row": ((2, 128), P("stage", "fsdp")), "v_col": ((2, 384), P("stage", "tensor")),
        "v": ((1,), P()),
    }


def test_dropout_depends_on_seed_and_step_only():
    def losses(seed):
        setup = setup_for(single_device())
        model = dataclasses.replace(setup.model, dropout=0.3)
        setup = make_setup(model, setup.compute, OptimizerConfig(), 20)
        step = jit_train_step(setup, LossOptions(), 1, seed)
        result = []
        for _ in range(2):
            state = init_state(setup, seed=0)
            for _ in range(2):
                state, metrics = step(state, batch_at(0))
                result.append(float(metrics["loss"]))
        return result

    one = losses(1)
    assert one[:2] == one[2:]
    assert one != losses(2)


def test_a_non_finite_loss_freezes_the_state_for_good():
    setup = setup_for(single_device())
    state = init_state(setup, seed=0)
    step = jit_train_step(setup, LossOptions(), 1, seed=0)
    state, _ = step(state, batch_at(0))
    good = jax.device_get(state)
    params = jax.tree.map(lambda x: x, state.params)  # its dictionaries anew
    params["decoder"]["norm"]["scale"] = params["decoder"]["norm"]["scale"].at[0].set(jnp.nan)
    frozen, metrics = step(state._replace(params=params), batch_at(1))
    assert not metrics["finite"] and not frozen.finite
    assert int(frozen.step) == 1
    for ours, theirs in zip(
        jax.tree.leaves(frozen.opt_state), jax.tree.leaves(good.opt_state), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    later, metrics = step(
        frozen._replace(params=jax.tree.map(jnp.asarray, good.params)), batch_at(2)
    )
    assert not metrics["finite"] and int(later.step) == 1  # healthy data does not thaw it


def test_a_batch_without_targets_changes_no_parameter_by_loss():
    setup = setup_for(single_device(), optimizer=OptimizerConfig(weight_decay=0.0))
    state = init_state(setup, seed=0)
    before = jax.device_get(state.params)
    step = jit_train_step(setup, LossOptions(), 1, seed=0)
    empty = batch_at(0)._replace(weights=np.zeros((B, T), np.float32))
    state, metrics = step(state, empty)
    assert float(metrics["loss"]) == 0 and bool(metrics["finite"])
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", [
    pytest.param("adamw", marks=pytest.mark.thorough), pytest.param("muon", marks=pytest.mark.slow),
])
def test_an_optimizer_on_the_host_is_the_same_optimizer(name, tmp_path):
    """Three steps with its state there, a checkpoint after the second, are three on the device."""
    sharding = make_sharding(MeshConfig())

    def run(placement):
        setup = setup_for(sharding, optimizer=OptimizerConfig(
            name=name, learning_rate=1e-2, warmup_steps=2, placement=placement,
        ))
        step = jit_train_step(setup, LossOptions(chunk=8), 1, seed=0)
        state = init_state(setup, seed=0)
        for index in range(3):
            if placement == "host" and index == 2:
                kept = saved_and_restored(tmp_path, setup, state)
                state = TrainState(**kept, frozen={}, reference={})
            state = step(state, place(batch_at(index), sharding, local_rows(sharding, B), B))[0]
            kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state.opt_state) if x.ndim}
            assert kinds == {"pinned_host" if placement == "host" else "device"}
        return jax.device_get(state)

    jax.tree.map(np.testing.assert_array_equal, run("host"), run("device"))


def saved_and_restored(folder, setup, state):
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(int(state.step), state.saved(), {}, None)
    checkpoints.wait()
    return checkpoints.restore(int(state.step), abstract_state(setup).saved())
