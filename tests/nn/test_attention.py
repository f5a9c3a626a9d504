"""Every attention kernel against a float64 numpy loop, and the kernels against each other.

Splash runs in interpret mode, which computes on a CPU what a TPU would.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.nn.attention import Attention
from jaxllm.nn.compute import make_compute
from jaxllm.nn.config import AttentionConfig, NormConfig
from jaxllm.nn.kernels.attention import Pattern, Places, attend, choose, mask_of, refusal

from .reference import attention, documents, qkv

SHAPE = (2, 128, 4, 2, 16)  # B, T, N, K, H: the shortest sequence that splash takes


def options(pattern):
    fields = ("causal", "window", "softcap", "scale")
    return {name: getattr(pattern, name) for name in fields}


def run(kernel, q, k, v, pattern, segments=None, sharding=None):
    """The output and the gradients of a fixed random sum of it."""
    compute = make_compute(sharding, attention=kernel)
    places = Places(None, None, segments, segments)
    pull = np.random.default_rng(9).normal(size=q.shape).astype(np.float32)

    def loss(q, k, v):
        out = attend(q, k, v, pattern, places, compute)
        return jnp.sum(out * pull), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    return out, grads


@pytest.mark.parametrize(("pattern", "packed"), [
    (Pattern(), False),
    (Pattern(), True),
    (Pattern(window=24), False),
    (Pattern(softcap=1.5), True),
    (Pattern(window=40, softcap=2.0, scale=0.3), True),
    (Pattern(causal=False), True),
    (Pattern(causal=False, window=24), False),
])
def test_kernels_equal_the_loop_and_each_other(pattern, packed):
    q, k, v = qkv(SHAPE)
    segments = documents(2, 128) if packed else None
    expected = attention(q, k, v, segments=segments, **options(pattern))
    xla, xla_grads = run("xla", q, k, v, pattern, segments)
    splash, splash_grads = run("splash_interpret", q, k, v, pattern, segments)
    np.testing.assert_allclose(xla, expected, atol=2e-6)
    np.testing.assert_allclose(splash, expected, atol=2e-6)
    for a, b in zip(xla_grads, splash_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("heads", [(4, 4), (4, 1), (6, 3)])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [0, 5])
def test_plain_attention_equals_the_loop(heads, causal, window):
    q, k, v = qkv((2, 13, *heads, 8), seed=1)
    pattern = Pattern(causal=causal, window=window)
    out, _ = run("xla", q, k, v, pattern, segments := documents(2, 13))
    expected = attention(q, k, v, segments=segments, **options(pattern))
    np.testing.assert_allclose(out, expected, atol=2e-6)


def test_gradients_equal_finite_differences():
    q, k, v = qkv((1, 7, 2, 1, 4), seed=2)
    pattern, pull = Pattern(window=4, softcap=2.0), np.random.default_rng(9).normal(size=q.shape)
    _, grads = run("xla", q, k, v, pattern)
    step = 1e-5
    for which, index in ((0, (0, 5, 1, 2)), (1, (0, 3, 0, 1)), (2, (0, 4, 0, 3))):
        values = []
        for sign in (1, -1):
            moved = [x.astype(np.float64) for x in (q, k, v)]
            moved[which][index] += sign * step
            values.append(np.sum(attention(*moved, **options(pattern)) * pull))
        slope = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(grads[which][index], slope, rtol=2e-4)


def test_splash_on_eight_devices_equals_one(sharding_of):
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    q, k, v = qkv((4, 128, 4, 2, 16), seed=3)
    segments = documents(4, 128)
    one, one_grads = run("splash_interpret", q, k, v, Pattern(), segments)
    many, many_grads = run("splash_interpret", q, k, v, Pattern(), segments, sharding_of(**mesh))
    np.testing.assert_allclose(many, one, atol=1e-6)
    for a, b in zip(many_grads, one_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_splash_on_eight_devices_without_segments(sharding_of):
    q, k, v = qkv((2, 128, 4, 4, 16), seed=3)
    compute = make_compute(sharding_of(data=2, tensor=4), attention="splash_interpret")
    out = attend(q, k, v, Pattern(), Places(), compute)
    np.testing.assert_allclose(out, attention(q, k, v), atol=2e-6)


def test_a_row_without_keys_stays_finite():
    q, k, v = qkv((1, 3, 1, 1, 4))
    places = Places(None, None, jnp.array([[1, 2, 3]]), jnp.array([[4, 4, 4]]))
    out = attend(q, k, v, Pattern(), places, make_compute(attention="xla"))
    assert bool(jnp.isfinite(out).all())


def test_low_precision_softmax_is_float32(compute):
    q, k, v = qkv((1, 64, 2, 1, 16))
    low = dataclasses.replace(compute, dtype=jnp.dtype(jnp.bfloat16))
    halves = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    out = attend(*halves, Pattern(), Places(), low)
    assert out.dtype == jnp.bfloat16
    expected = attention(*(np.asarray(x, np.float32) for x in halves))
    np.testing.assert_allclose(np.asarray(out, np.float32), expected, atol=2e-2)


def test_cache_places_equal_the_full_sequence(compute):
    """The last queries of a sequence against a cache with unused slots, as decoding does it."""
    q, k, v = qkv((2, 9, 4, 2, 8))
    slots = 12
    cache = [np.full((2, slots, 2, 8), 7.0, np.float32) for _ in range(2)]
    cache[0][:, :9], cache[1][:, :9] = k, v
    positions = np.broadcast_to(np.arange(6, 9, dtype=np.int32), (2, 3))
    places = Places(positions, np.arange(slots, dtype=np.int32)[None], None, None)
    out = attend(q[:, 6:], *cache, Pattern(window=5), places, compute)
    np.testing.assert_allclose(out, attention(q, k, v, window=5)[:, 6:], atol=2e-6)


def test_a_prefix_is_seen_from_before(compute):
    """Tokens of the prefix see each other, the rest see what came before them and the prefix."""
    q, k, v = qkv((2, 9, 4, 2, 8))
    prefix = np.zeros((2, 9), bool)
    prefix[0, :4], prefix[1, 3:5] = True, True
    segments = np.array([[1] * 9, [1, 1, 1, 2, 2, 2, 2, 0, 0]], np.int32)
    places = Places(
        query_segments_BT=segments, key_segments_BS=segments, key_prefix_BS=jnp.asarray(prefix)
    )
    out = attend(q, k, v, Pattern(), places, compute)
    expected = attention(q, k, v, segments=segments, prefix=prefix)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    assert np.abs(expected - attention(q, k, v, segments=segments)).max() > 0.1


def test_a_bias_is_added_to_the_scores(compute):
    """Before the soft-cap and the mask; one bias for all rows or each its own."""
    q, k, v = qkv((2, 7, 4, 2, 8))
    bias = np.random.default_rng(3).normal(size=(2, 4, 7, 7)).astype(np.float32)
    for rows in (1, 2):
        out = attend(
            q, k, v, Pattern(softcap=2.0), Places(bias_BNTS=jnp.asarray(bias[:rows])), compute
        )
        expected = attention(q, k, v, softcap=2.0, bias=np.broadcast_to(bias[:rows], bias.shape))
        np.testing.assert_allclose(out, expected, atol=2e-6)


def test_queries_of_another_length_than_keys(compute):
    """Cross-attention: padding of the keys is not seen."""
    q, k, v = qkv((2, 9, 4, 2, 8))
    keys = np.array([[1] * 9, [1] * 6 + [0] * 3], np.int32)
    places = Places(query_segments_BT=np.ones((2, 5), np.int32), key_segments_BS=keys)
    out = attend(q[:, :5], k, v, Pattern(causal=False), places, compute)
    full = attention(q, k, v, causal=False)[:, :5]
    np.testing.assert_allclose(out[0], full[0], atol=2e-6)
    short = attention(*(x[1:, :6] for x in (q, k, v)), causal=False)[:, :5]
    np.testing.assert_allclose(out[1:], short, atol=2e-6)


@pytest.mark.parametrize("kind", ["none", "head", "all"])
def test_queries_and_keys_are_normalised_values_are_not(compute, kind):
    """Each head's vector, or those of all heads as one; after the cut to ± clip."""
    config = AttentionConfig(heads=4, kv_heads=2, head_dim=6, qk_norm=kind, clip=0.8)
    norm, spread = NormConfig(eps=1e-3), {"stddev": 0.5, "query_stddev": 0.5, "output_stddev": 0.5}
    layer = Attention(jax.random.key(0), compute, 8, config, norm, **spread, causal=True)
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)

    def plain(linear, scale):
        y = np.clip(np.einsum("btd,dnh->btnh", x, np.asarray(linear.kernel[...])), -0.8, 0.8)
        if scale is None or kind == "none":
            return y
        axes = -1 if kind == "head" else (-1, -2)
        return y / np.sqrt((y**2).mean(axes, keepdims=True) + 1e-3) * scale

    rng, scales = np.random.default_rng(1), []
    for found in (layer.query_norm, layer.key_norm):
        scales.append(None)
        if kind != "none":
            scales[-1] = rng.normal(size=found.scale[...].shape).astype(np.float32)
            found.scale.set_value(jnp.asarray(scales[-1]))
    key, value = layer.project_key_value(x)
    query = layer.project_query(x)
    np.testing.assert_allclose(query, plain(layer.query, scales[0]), atol=1e-5)
    np.testing.assert_allclose(key, plain(layer.key, scales[1]), atol=1e-5)
    np.testing.assert_allclose(value, plain(layer.value, None), atol=1e-5)


def test_dropout_keeps_the_mean_and_follows_its_key(compute):
    q, k, _ = qkv((1, 8, 2, 2, 4))
    v = np.ones((1, 8, 2, 4), np.float32)
    pattern = Pattern(dropout=0.25)
    drop = jax.jit(lambda key: attend(q, k, v, pattern, Places(), compute, key))
    keys = jax.random.split(jax.random.key(0), 2000)
    outs = jax.jit(jax.vmap(drop))(keys)
    np.testing.assert_allclose(jnp.mean(outs, 0), 1.0, atol=0.06)  # the probabilities sum to one
    assert bool(jnp.array_equal(drop(keys[0]), drop(keys[0])))
    assert not bool(jnp.array_equal(drop(keys[0]), drop(keys[1])))
    np.testing.assert_allclose(attend(q, k, v, pattern, Places(), compute), 1.0, rtol=1e-6)


@pytest.mark.parametrize(("kernel", "shape", "pattern", "dtype", "reason"), [
    ("cudnn", (128, 64), Pattern(), "bfloat16", None),
    ("cudnn", (100, 64), Pattern(window=8), "float16", None),
    ("cudnn", (128, 64), Pattern(softcap=1.0), "bfloat16", "no soft-cap"),
    ("cudnn", (128, 64), Pattern(), "float32", "bfloat16 or float16, not float32"),
    ("cudnn", (128, 60), Pattern(), "bfloat16", "multiples of 8 up to 128, not 60"),
    ("cudnn", (128, 136), Pattern(), "bfloat16", "multiples of 8 up to 128, not 136"),
    ("splash", (256, 60), Pattern(softcap=1.0, window=8), "float32", None),
    ("splash", (100, 64), Pattern(), "float32", "multiples of 128, not 100"),
    ("splash", (128, 64), Pattern(causal=False), "float32", None),
    ("xla", (100, 60), Pattern(causal=False, softcap=1.0, dropout=0.5), "float32", None),
])
def test_refusal(compute, kernel, shape, pattern, dtype, reason):
    length, head_dim = shape
    x = jax.ShapeDtypeStruct((1, length, 2, head_dim), dtype)
    found = refusal(kernel, pattern, Places(), x, x, None, compute)
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize("kernel", ["cudnn", "splash"])
def test_refusal_of_dropout_and_a_cut_sequence(compute, sharding_of, kernel):
    x = jax.ShapeDtypeStruct((1, 128, 2, 64), jnp.bfloat16)
    key = jax.random.key(0)
    def why(compute, pattern=Pattern(), places=Places(), keys=x, key=None):  # noqa: B008
        return refusal(kernel, pattern, places, x, keys, key, compute)

    assert "no dropout" in why(compute, Pattern(dropout=0.1), key=key)
    assert why(compute, Pattern(dropout=0.1)) is None
    cut = dataclasses.replace(compute, sharding=sharding_of(context=8))
    expected = {"splash": "128 x mesh.context = 1024, not 128", "cudnn": "mesh.context cuts it"}
    assert expected[kernel] in why(cut)
    assert "no bias" in why(compute, places=Places(bias_BNTS=jnp.zeros((1, 2, 128, 128))))
    assert "no prefix" in why(compute, places=Places(key_prefix_BS=jnp.zeros((1, 128), bool)))
    other = jax.ShapeDtypeStruct((1, 256, 2, 64), jnp.bfloat16)  # an encoder's
    expected = {"splash": "as many keys as queries", "cudnn": None}[kernel]
    found = why(compute, Pattern(causal=False), keys=other)
    assert found is None if expected is None else expected in found


def test_choose(compute):
    x = jax.ShapeDtypeStruct((1, 100, 2, 16), jnp.float32)

    def chosen(name, places=Places()):  # noqa: B008
        return choose(dataclasses.replace(compute, attention=name), Pattern(), places, x, x, None)

    assert chosen("auto") == "xla" == chosen("xla")
    assert chosen("splash", Places(query_index_BT=jnp.zeros((1, 100)))) == "xla"
    with pytest.raises(UserError, match=r"'splash' cannot .*runs on a TPU.*this is a CPU.*'auto'"):
        chosen("splash")
    with pytest.raises(UserError, match=r"'cudnn' cannot .*runs on a GPU"):
        chosen("cudnn")
    with pytest.raises(UserError, match=r"cannot run this model.*128, not 100.*Use 'auto'"):
        chosen("splash_interpret")
    with pytest.raises(UserError, match=r"train\.attention='spalsh' is unknown.*'splash'"):
        make_compute(attention="spalsh")


def test_mask_of_nothing_is_none():
    assert mask_of(Pattern(causal=False), Places(), 3, 3) is None
    np.testing.assert_array_equal(
        mask_of(Pattern(window=2), Places(), 3, 3)[0],
        [[1, 0, 0], [1, 1, 0], [0, 1, 1]],
    )


def test_splash_leaves_an_encoders_padding_to_xla(compute):
    """As many keys as queries, but other documents: the kernel has one set of segments."""
    x = jnp.zeros((1, 128, 2, 64))
    ours, theirs = jnp.ones((1, 128), jnp.int32), jnp.ones((1, 128), jnp.int32).at[:, 64:].set(0)
    places = Places(query_segments_BT=ours, key_segments_BS=theirs)
    own = refusal("splash", Pattern(causal=False), places, x, x, None, compute)
    cross = refusal("splash", Pattern(causal=False, cross=True), places, x, x, None, compute)
    assert own is None and "encoder's padding" in cross
