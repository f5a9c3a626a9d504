"""The Transformer against itself by other routes: token by token, packed, on eight devices.

What it computes as such is compared with transformers in tests/parity.
"""

import dataclasses
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models.tower import Inputs
from jaxllm.models.transformer import Transformer
from jaxllm.nn.compute import make_compute
from jaxllm.nn.kernels.attention import Places
from jaxllm.nn.module import abstract, bind, split

FAMILIES = ("llama", "gpt2")
LENGTH = 12


@pytest.fixture(scope="module")
def models(tiny, compute, build):
    """`models(family)`: (structure, params)."""
    return lru_cache(lambda family: build(tiny[family], compute, seed=3))


@pytest.fixture(scope="module")
def forward():
    """Logits, jitted: `forward((structure, params), ids, positions, segments, key)`."""
    @partial(jax.jit, static_argnums=0)
    def run(structure, params, ids, positions, segments, key):
        model = bind(structure, params)
        return model.logits(model.hidden(Inputs(ids, positions, segments), key))

    def call(model, ids, positions=None, segments=None, key=None):
        ids = jnp.asarray(ids)
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
        return run(*model, ids, positions, segments, key)

    return call


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 48, shape).astype(np.int32)


def changed(model, **fields):
    return dataclasses.replace(model, **fields)


@pytest.mark.parametrize(("family", "window"), [
    ("llama", 0), ("gpt2", 0), ("gemma3", 4),
    pytest.param("llama", 4, marks=pytest.mark.slow),
])
def test_decoding_with_a_cache_equals_the_full_forward(
    tiny, compute, models, forward, family, window
):
    """A prefill of five tokens, then one at a time; rows at different positions."""
    config = tiny[family]
    config = changed(config, attention=changed(config.attention, window=window))
    structure, _ = abstract(partial(Transformer, config=config, compute=compute))
    params = models(family)[1]
    ids = tokens(2, LENGTH)
    expected = forward((structure, params), ids)

    @jax.jit
    def step(params, cache, ids, positions):
        model = bind(structure, params)
        hidden, cache = model.decode(Inputs(ids, positions), cache)
        return model.logits(hidden), cache

    cache = bind(structure, params).decoder.empty_cache(2, LENGTH + 3)
    attention = config.attention
    shape = (config.layers, 2, LENGTH + 3, attention.kv_heads, attention.head_dim)
    assert cache.keys.shape == shape
    positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), ids.shape)
    logits, cache = step(params, cache, ids[:, :5], positions[:, :5])
    found = [logits]
    for t in range(5, LENGTH):
        logits, cache = step(params, cache, ids[:, t:t + 1], positions[:, t:t + 1])
        found.append(logits)
    np.testing.assert_allclose(jnp.concatenate(found, 1), expected, atol=1e-5)


def test_cache_rows_advance_on_their_own(models, forward):
    """Row 0 is two tokens ahead of row 1, as prompts of unequal length are."""
    structure, params = models("llama")
    ids = tokens(2, 8)
    expected = forward(models("llama"), ids)
    place = np.array([[6], [4]], np.int32)

    @jax.jit
    def run(params):
        model = bind(structure, params)
        positions = jnp.broadcast_to(jnp.arange(6), (2, 6))
        # row 1: the last two are padding
        cache = model.decoder.empty_cache(2, 8)
        _, cache = model.decode(Inputs(ids[:, :6], positions), cache)
        hidden, _ = model.decode(Inputs(np.take_along_axis(ids, place, 1), place), cache)
        return model.logits(hidden)[:, 0]

    np.testing.assert_allclose(run(params), expected[np.arange(2), place[:, 0]], atol=1e-5)


@pytest.mark.parametrize("family", [*FAMILIES, "gemma3", "bert"])
def test_packed_documents_equal_the_documents_alone(models, forward, family):
    lengths = (5, 4, 2)
    documents = [tokens(1, n, seed=n) for n in lengths]
    padding = LENGTH - sum(lengths)
    ids = np.concatenate([*documents, np.zeros((1, padding), np.int32)], 1)
    positions = np.concatenate([np.arange(n) for n in (*lengths, padding)])[None].astype(np.int32)
    segments = np.repeat([1, 2, 3, 0], [*lengths, padding])[None].astype(np.int32)
    packed = forward(models(family), ids, positions, segments)
    alone = np.zeros((3, LENGTH), np.int32)
    for row, document in zip(alone, documents, strict=True):
        row[:document.size] = document[0]
    padding = np.arange(LENGTH)[None] < np.array(lengths)[:, None]
    expected = forward(models(family), alone, segments=padding.astype(np.int32))
    expected = np.concatenate([expected[i, :n] for i, n in enumerate(lengths)])
    np.testing.assert_allclose(packed[0, :len(expected)], expected, atol=1e-5)
    assert bool(jnp.isfinite(packed).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_no_token_sees_what_follows(models, forward, family):
    ids = tokens(2, LENGTH)
    other = ids.copy()
    other[0, 7] = (other[0, 7] + 1) % 48
    before, after = forward(models(family), ids), forward(models(family), other)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert bool(jnp.all(jnp.any(before[0, 7:] != after[0, 7:], -1)))


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_matter_as_they_should(models, forward, family):
    """Learned positions are absolute; RoPE sees distances only."""
    ids = tokens(2, LENGTH)
    positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), ids.shape)
    here, there = (forward(models(family), ids, positions + shift) for shift in (0, 9))
    difference = float(jnp.abs(here - there).max())
    assert difference < 1e-4 if family == "llama" else difference > 1e-2


def test_learned_positions_are_added(models, forward):
    structure, params = models("gpt2")
    rows, table = params["decoder"]["positions"]["table"], params["embedding"]["table"]
    assert rows.shape == (24, 32)
    ids = tokens(1, 4)
    moved = {**params, "decoder": {**params["decoder"], "positions": {"table": 0 * rows}},
             "embedding": {"table": table.at[ids[0]].set(table[ids[0]] + rows[:4])}}
    hidden = jax.jit(lambda p: bind(structure, p).hidden(Inputs(ids, jnp.arange(4)[None])))
    np.testing.assert_allclose(hidden(moved), hidden(params), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_tied_and_untied_heads(tiny, compute, forward, models, family):
    """A head that equals the embedding makes the untied model the tied one."""
    structures = {}
    for tied in (True, False):
        config = changed(tiny[family], tied=tied)
        structures[tied], specs = abstract(partial(Transformer, config=config, compute=compute))
        assert ("head" in specs) != tied
    params = {name: value for name, value in models(family)[1].items() if name != "head"}
    untied = {**params, "head": {"output": {"kernel": params["embedding"]["table"].T}}}
    ids = tokens(2, LENGTH)
    np.testing.assert_allclose(
        forward((structures[False], untied), ids), forward((structures[True], params), ids),
        atol=1e-6,
    )


def test_logit_softcap_bounds(tiny, compute, forward, models):
    config = changed(tiny["llama"], logit_softcap=0.05)
    structure, _ = abstract(partial(Transformer, config=config, compute=compute))
    params, ids = models("llama")[1], tokens(2, LENGTH)
    expected = 0.05 * np.tanh(np.asarray(forward(models("llama"), ids)) / 0.05)
    np.testing.assert_allclose(forward((structure, params), ids), expected, atol=1e-6)


def test_dropout_follows_its_key(tiny, compute, forward, models):
    config = changed(tiny["gpt2"], dropout=0.5,
                     attention=changed(tiny["gpt2"].attention, dropout=0.5))
    structure, _ = abstract(partial(Transformer, config=config, compute=compute))
    params, ids = models("gpt2")[1], tokens(1, 6)
    model = structure, params
    a, b = jax.random.key(1), jax.random.key(2)
    same = [forward(model, ids, key=a) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert float(jnp.abs(forward(model, ids, key=b) - same[0]).max()) > 1e-3
    inputs = Inputs(ids, jnp.arange(6)[None])
    stream = jax.jit(lambda p: bind(structure, p).traced(inputs, a, lambda x: x)[1])(params)
    assert 0.3 < float(jnp.mean(stream["decoder"][0] == 0)) < 0.7


def test_every_layer_ends_in_the_hidden_states(models):
    structure, params = models("llama")
    ids, positions = tokens(2, 5), np.broadcast_to(np.arange(5), (2, 5))

    @jax.jit
    def run(params):
        model = bind(structure, params)
        inputs = Inputs(ids, positions)
        hidden, seen = model.traced(inputs, every_layer=lambda x: x)
        return seen["decoder"], model.decoder.norm(seen["decoder"][-1]), hidden

    residual, last, hidden = run(params)
    assert residual.shape == (3, 2, 5, 32)
    np.testing.assert_array_equal(residual[0], params["embedding"]["table"][ids])
    np.testing.assert_allclose(last, hidden, atol=1e-6)


@pytest.mark.parametrize("mesh", [
    {"data": 2, "fsdp": 2, "tensor": 2}, {"fsdp": 4, "context": 2}, {"stage": 2, "tensor": 2,
                                                                     "data": 2},
])
def test_eight_devices_equal_one(tiny, build, forward, models, sharding_of, mesh):
    sharding = sharding_of(**mesh)
    structure, params = build(tiny["llama"], make_compute(sharding), seed=3)
    jax.tree.map(np.testing.assert_array_equal, params, models("llama")[1])
    ids = tokens(4, LENGTH)
    found = forward((structure, params), ids)
    np.testing.assert_allclose(found, forward(models("llama"), ids), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "mesh"), [
    ("t5", {"data": 2, "fsdp": 2, "tensor": 2}), ("gemma3", {"fsdp": 2, "context": 2, "tensor": 2}),
])
def test_two_towers_and_patterns_on_eight_devices(
    tiny, build, models, sharding_of, family, mesh
):
    """The values and the gradients of all parameters."""
    rows = tokens(4, LENGTH), np.broadcast_to(np.arange(LENGTH), (4, LENGTH))
    padded = np.ones((4, 16), np.int32)
    padded[1, 9:] = 0
    encoder = Inputs(tokens(4, 16, seed=1), np.broadcast_to(np.arange(16), (4, 16)), padded)
    inputs = Inputs(*rows, encoder=encoder if family == "t5" else None)

    @partial(jax.jit, static_argnums=0)
    def run(structure, params):
        def loss(params):
            model = bind(structure, params)
            logits = model.logits(model.hidden(inputs))
            return jnp.mean(jnp.sin(logits)), logits

        (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return logits, gradients

    logits, gradients = run(*models(family))
    structure, params = build(tiny[family], make_compute(sharding_of(**mesh)), seed=3)
    found, found_gradients = run(structure, params)
    np.testing.assert_allclose(found, logits, atol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()) + 1e-7),
        found_gradients, gradients,
    )


def test_a_pattern_equals_the_layers_one_by_one(tiny, compute, models):
    """Local and global layers in turn, and what is left of the last repetition."""
    structure, params = models("gemma3")
    ids, positions = tokens(2, LENGTH), np.broadcast_to(np.arange(LENGTH), (2, LENGTH))

    @jax.jit
    def run(params):
        model = bind(structure, params)
        inputs = Inputs(ids, positions)
        _, seen = model.traced(inputs, every_layer=lambda x: x)
        decoder = model.decoder
        x = decoder._embed(model.embedding(ids), inputs, None)
        context, stream = decoder._context(inputs, Places(), None), [x]
        for index in range(tiny["gemma3"].layers):
            part, place = (decoder.layers.layer, index) if index < 4 else (decoder.layers.tail, 0)
            layer, values = split(part)
            layer = bind(layer, jax.tree.map(lambda a, place=place: a[place], values))
            x, _ = layer(x, index % 2, context)
            stream.append(x)
        return seen["decoder"], jnp.stack(stream)

    found, expected = run(params)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_close(tiny, forward, models):
    compute = make_compute(dtype="bfloat16")
    structure, _ = abstract(partial(Transformer, config=tiny["llama"], compute=compute))
    ids = tokens(2, LENGTH)
    logits = forward((structure, models("llama")[1]), ids)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, forward(models("llama"), ids), atol=0.05)
