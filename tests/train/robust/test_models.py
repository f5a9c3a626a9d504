"""The methods on real models: in microbatches, on eight devices, for every kind of head."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.mesh import single_device
from jaxllm.data.batch import Batch
from jaxllm.models.adapters.config import AdapterConfig, LoraConfig
from jaxllm.models.transformer import inputs_of
from jaxllm.nn.compute import make_compute
from jaxllm.nn.config import HeadConfig
from jaxllm.nn.module import bind
from jaxllm.train.config import OptimizerConfig
from jaxllm.train.feed import local_rows, place
from jaxllm.train.losses import LossOptions
from jaxllm.train.robust.config import FreelbConfig, RdropConfig, RobustConfig, SmartConfig
from jaxllm.train.robust.methods import make_loss
from jaxllm.train.scores import plain_passes
from jaxllm.train.state import init_state, make_setup
from jaxllm.train.step import make_train_step, step_key

B, T, V = 8, 16, 48
METHODS = {
    "neftune": RobustConfig("neftune"),
    "freelb": RobustConfig("freelb", freelb=FreelbConfig(adv_steps=2)),
    "smart": RobustConfig("smart", smart=SmartConfig(epsilon=1e-2, noise_stddev=1e-2)),
    "rdrop": RobustConfig("rdrop", rdrop=RdropConfig(alpha=0.5)),
}
SLOW = pytest.mark.slow


def batch_at(step, encoder=False):
    """Two texts a row, some padding; of an encoder-decoder one text a side."""
    rng = np.random.default_rng(step)
    ids = rng.integers(0, V, (B, T + 1)).astype(np.int32)
    cut = rng.integers(4, T - 4, (B, 1))
    places = np.arange(T)[None]
    segments = np.where(places < cut, 1, 1 if encoder else 2).astype(np.int32)
    segments[:, -2:] = 0
    positions = np.where(places < cut, places, places - (0 if encoder else cut)).astype(np.int32)
    weights = (segments > 0).astype(np.float32)
    batch = Batch(ids[:, :-1], ids[:, 1:], weights, positions, segments)
    if not encoder:
        return batch
    return batch._replace(
        encoder_inputs=ids[:, ::-1][:, :-1].copy(), encoder_positions=positions,
        encoder_segment_ids=segments,
    )


def setup_for(config, sharding, **compute):
    return make_setup(
        config, make_compute(sharding, **compute), OptimizerConfig(learning_rate=1e-2), 20
    )


def losses(config, sharding, method, accumulation=1, steps=2, batches=batch_at, anchor=False):
    setup = setup_for(config, sharding)
    options = LossOptions(chunk=8)
    loss = make_loss(method, plain_passes(setup, options))
    state = init_state(setup, seed=0)
    if anchor:
        state = state._replace(reference=jax.tree.map(lambda p: 1.05 * p, state.params))
    step = jax.jit(make_train_step(setup, options, accumulation, loss))
    rows, found = local_rows(sharding, B), []
    for index in range(steps):
        batch = place(batches(index), sharding, rows, B)
        state, metrics = step(state, batch, step_key(0, state.step))
        found.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return np.array(found), state


@pytest.fixture(scope="module")
def llama(tiny):
    return dataclasses.replace(tiny["llama"], layers=1)


@pytest.mark.thorough
@pytest.mark.parametrize("mesh", [
    {"fsdp": 2, "context": 2, "tensor": 2},
    pytest.param({"data": 2, "fsdp": 2, "tensor": 2}, marks=SLOW),
], ids=str)
@pytest.mark.parametrize("name", [
    pytest.param("neftune", marks=SLOW), pytest.param("freelb", marks=SLOW), "smart",
])
def test_eight_devices_equal_one(llama, sharding_of, name, mesh):
    """Noise, norms and divergences: the mesh changes nothing, context parallelism included."""
    one, _ = losses(llama, single_device(), METHODS[name])
    many, _ = losses(llama, sharding_of(**mesh), METHODS[name])
    np.testing.assert_allclose(many, one, rtol=2e-4)


@pytest.mark.parametrize("name", [
    *(pytest.param(name, marks=SLOW) for name in ("neftune", "smart")),
    *(pytest.param(name, marks=pytest.mark.thorough) for name in ("freelb", "rdrop")),
])
def test_microbatches_and_the_same_seed(llama, name):
    """Each microbatch has noise of its own, the same in another run."""
    model = dataclasses.replace(llama, dropout=0.1 if name == "rdrop" else 0.0)
    first, a = losses(model, single_device(), METHODS[name], accumulation=2)
    again, b = losses(model, single_device(), METHODS[name], accumulation=2)
    np.testing.assert_array_equal(first, again)
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    assert np.isfinite(first).all()
    if name == "smart":  # its ascent from nearly no noise hardly depends on the draw
        return
    whole, _ = losses(model, single_device(), METHODS[name])
    assert (first[0] != whole[0]).any()


@pytest.mark.thorough
def test_freelb_in_microbatches_is_freelb_of_the_batch(llama):
    """Without a random start nothing depends on how the batch is cut."""
    method = RobustConfig("freelb", freelb=FreelbConfig(adv_steps=3, adv_init_mag=0.0))
    one, _ = losses(llama, single_device(), method)
    two, _ = losses(llama, single_device(), method, accumulation=2)
    np.testing.assert_allclose(two, one, rtol=1e-4)


@pytest.mark.thorough
def test_the_bregman_term_reads_the_anchor(llama):
    smart = RobustConfig("smart", smart=SmartConfig(weight=0.0, bregman=1.0))
    near, _ = losses(llama, single_device(), smart, steps=1, anchor=True)
    plain, _ = losses(llama, single_device(), RobustConfig(), steps=1)
    assert smart.needs_anchor() and near[0, 0] > plain[0, 0]


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "kind"), [
    ("freelb", "t5"),
    pytest.param("neftune", "token_classification", marks=pytest.mark.thorough),
    pytest.param("smart", "sequence_classification", marks=pytest.mark.thorough),
    *(pytest.param(name, kind, marks=SLOW) for name, kind in (
        ("smart", "t5"), ("neftune", "t5"), ("freelb", "sequence_classification"),
        ("freelb", "token_classification"), ("smart", "token_classification"),
    )),
])
def test_other_heads_and_both_sides_of_an_encoder_decoder(tiny, name, kind):
    if kind == "t5":
        found, _ = losses(
            tiny["t5"], single_device(), METHODS[name],
            batches=lambda step: batch_at(step, encoder=True),
        )
        assert np.isfinite(found).all()
        return
    pooling = "none" if kind.startswith("token") else "first"
    head = HeadConfig(kind, labels=4, pooling=pooling)
    config = dataclasses.replace(tiny["bert"], head=head, tied=False)

    def batches(step):
        batch = batch_at(step)
        segments = (batch.segment_ids > 0).astype(np.int32)
        return batch._replace(segment_ids=segments, targets=batch.targets % 4)

    found, _ = losses(config, single_device(), METHODS[name], batches=batches)
    plain, _ = losses(config, single_device(), RobustConfig(), batches=batches)
    assert np.isfinite(found).all() and np.abs(found - plain).max() > 1e-5


@pytest.mark.parametrize(("name", "quantization"), [
    pytest.param("freelb", "nf4", marks=pytest.mark.thorough),
    pytest.param("smart", "none", marks=SLOW),
])
def test_adapters_on_a_frozen_base(llama, name, quantization):
    """Only what trains has a gradient; a base in 4 bits is none to be differentiated."""
    lora = LoraConfig(r=2, init_lora_weights="gaussian")
    adapter = AdapterConfig(method="lora", lora=lora, quantization=quantization)
    model = dataclasses.replace(llama, width=64, adapter=adapter)
    model = dataclasses.replace(model, mlp=dataclasses.replace(model.mlp, width=64))
    found, state = losses(model, single_device(), METHODS[name], accumulation=2)
    plain, _ = losses(model, single_device(), RobustConfig(), accumulation=2)
    assert np.isfinite(found).all() and np.abs(found - plain).max() > 1e-5
    assert state.frozen and len(jax.tree.leaves(state.params)) < len(jax.tree.leaves(state.frozen))


@pytest.mark.parametrize("family", [
    "llama", "bert", pytest.param("gemma3", marks=pytest.mark.thorough),
])
def test_noise_is_added_to_what_the_table_gives(tiny, build, compute, family):
    """The same as a table whose row of a token has moved, where the token occurs once."""
    config = tiny[family]
    structure, params = build(config, compute)
    ids = np.arange(B * T, dtype=np.int32).reshape(B, T) % V
    ids = ids[:3, :]  # 48 tokens, each once
    zeros = np.zeros_like(ids)
    batch = Batch(ids, ids, zeros, zeros + np.arange(T, dtype=np.int32), zeros + 1)
    noise = 0.1 * jax.random.normal(jax.random.key(1), (3, T, config.width))
    moved = jax.tree.map(lambda x: x, params)
    moved["embedding"]["table"] = params["embedding"]["table"].at[ids].add(noise)
    found = bind(structure, params).hidden(inputs_of(batch)._replace(noise=noise))
    expected = bind(structure, moved).hidden(inputs_of(batch))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert float(jnp.abs(found - bind(structure, params).hidden(inputs_of(batch))).max()) > 1e-2
