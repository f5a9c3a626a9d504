"""Modules as pytrees: a scanned stack equals a Python loop, and memory policies change nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.models.tower import Inputs
from jaxllm.models.transformer import Transformer
from jaxllm.nn.compute import REMAT, make_compute
from jaxllm.nn.config import MlpConfig
from jaxllm.nn.layers import Linear, dropout
from jaxllm.nn.mlp import Mlp
from jaxllm.nn.module import ParamSpec, Stack, abstract, bind, parameter, split, zeros

LAYERS = 3


@pytest.fixture(scope="module")
def stack(compute):
    make = partial(Linear, compute=compute, inputs={"embed": 6}, outputs={"embed": 6}, stddev=0.5)
    return Stack(make, LAYERS, jax.random.key(0))


def layer_of(stack, index):
    """Layer `index` as a module of its own."""
    structure, params = split(stack.layer)
    return bind(structure, jax.tree.map(lambda x: x[index], params))


def test_every_layer_starts_differently(stack):
    kernels = stack.layer.kernel[...]
    assert kernels.shape == (LAYERS, 6, 6)
    assert len({float(k.sum()) for k in kernels}) == LAYERS


@pytest.mark.parametrize("unroll", [1, 3])
def test_scan_equals_a_loop(stack, unroll):
    x = jax.random.normal(jax.random.key(1), (4, 6))
    keys = jax.random.split(jax.random.key(2), LAYERS)

    def body(layer, place, x, key):
        y = dropout(jnp.tanh(layer(x)), 0.5, key)
        return x + y, y

    expected, outputs = x, []
    for index in range(LAYERS):
        expected, y = body(layer_of(stack, index), 0, expected, keys[index])
        outputs.append(y)
    found, ys = jax.jit(lambda x: stack.scan(body, x, keys, unroll=unroll))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ys, jnp.stack(outputs), rtol=1e-6, atol=1e-6)
    masks = np.asarray(ys) == 0
    assert not np.array_equal(masks[0], masks[1])  # each layer has a mask of its own


def test_a_repeating_pattern_equals_a_loop(compute):
    """Five layers in a pattern of two: two repetitions scanned, the last layer apart."""
    make = partial(Linear, compute=compute, inputs={"embed": 6}, outputs={"embed": 6}, stddev=0.5)
    patterned = Stack(make, 5, jax.random.key(0), group=2)
    assert patterned.layer.kernel[...].shape[0] == 4 and patterned.tail.kernel[...].shape[0] == 1
    x, factors = jax.random.normal(jax.random.key(1), (4, 6)), jnp.arange(1.0, 6.0)

    def body(layer, place, x, factor):
        y = (jnp.tanh if place == 0 else jnp.sin)(layer(x)) * factor
        return x + y, y

    def looped(x):
        outputs = []
        for index in range(5):
            part = patterned.layer if index < 4 else patterned.tail
            structure, params = split(part)
            at = index if index < 4 else 0
            layer = bind(structure, jax.tree.map(lambda a, at=at: a[at], params))
            x, y = body(layer, index % 2, x, factors[index])
            outputs.append(y)
        return x, jnp.stack(outputs)

    for wrap in (lambda f: f, jax.checkpoint):
        run = jax.jit(lambda x, wrap=wrap: patterned.scan(body, x, factors, wrap=wrap))
        for a, b in zip(run(x), looped(x), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_split_and_bind(compute):
    layer = Linear(jax.random.key(0), compute, {"embed": 3}, {"mlp": 4}, stddev=1.0, bias=True)
    structure, params = split(layer)
    assert jax.tree.map(jnp.shape, params) == {"kernel": (3, 4), "bias": (4,)}
    doubled = bind(structure, jax.tree.map(lambda x: 2 * x, params))
    np.testing.assert_allclose(doubled(jnp.ones((1, 3))), 2 * layer(jnp.ones((1, 3))), rtol=1e-6)
    assert hash(structure) == hash(split(layer)[0])


def test_abstract_computes_nothing_and_names_axes(compute):
    big = {"embed": 2**20}, {"heads": 2**10, "head_dim": 2**10}
    _, specs = abstract(lambda key: Linear(key, compute, *big, stddev=1.0, bias=True))
    dtype = jnp.dtype(jnp.float32)
    assert specs == {
        "kernel": ParamSpec((2**20, 2**10, 2**10), dtype, ("embed", "heads", "head_dim"), 1),
        "bias": ParamSpec((2**10, 2**10), dtype, ("heads", "head_dim"), 0),
    }


def test_a_stack_prepends_its_axis(compute):
    make = partial(Linear, compute=compute, inputs={"embed": 6}, outputs={"mlp": 4}, stddev=0.5)
    _, specs = abstract(lambda key: Stack(make, 5, key))
    assert specs == {"layer": {
        "kernel": ParamSpec((5, 6, 4), jnp.dtype(jnp.float32), ("layers", "embed", "mlp"), 1)
    }}


def test_axes_must_match_the_shape():
    with pytest.raises(ValueError, match="differ in length"):
        parameter(jax.random.key(0), (2, 3), ("embed",), zeros, jnp.float32)


@pytest.fixture(scope="module")
def gradients(tiny, compute, build):
    """`gradients(remat, unroll)` of a small model's loss."""
    _, params = build(tiny["llama"], compute)

    def of(remat, unroll):
        make = partial(Transformer, config=tiny["llama"],
                       compute=make_compute(remat=remat, unroll=unroll))
        structure, _ = abstract(make)
        ids = jnp.arange(2 * 8).reshape(2, 8) % 48
        positions = jnp.broadcast_to(jnp.arange(8), (2, 8))

        def loss(params):
            model = bind(structure, params)
            return jnp.mean(jnp.sin(model.logits(model.hidden(Inputs(ids, positions)))))

        return jax.jit(jax.grad(loss))(params)

    return of


@pytest.fixture(scope="module")
def plain_gradients(gradients):
    return gradients("none", 1)


@pytest.mark.parametrize(("remat", "unroll"), [
    ("full", 1), ("full", 2), ("dots", 1), ("attention", 1), ("kv_offload", 1),
    *(pytest.param(name, 1, marks=pytest.mark.thorough) for name in REMAT
      if name not in ("none", "full", "dots", "attention", "kv_offload")),
])
def test_remat_and_unroll_change_no_gradient(gradients, plain_gradients, remat, unroll):
    assert float(jnp.abs(plain_gradients["embedding"]["table"]).max()) > 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
        gradients(remat, unroll), plain_gradients,
    )


def test_remat_saves_less(compute):
    """The policies differ in what the backward pass finds saved."""
    def saved(remat):
        make = make_compute(remat=remat)
        mlp = Mlp(jax.random.key(0), make, 4, MlpConfig(width=8), stddev=1.0, output_stddev=1.0)
        structure, params = split(mlp)
        step = make.checkpoint(lambda params, x: bind(structure, params)(x))
        _, pull = jax.vjp(step, params, jnp.ones((1, 3, 4)))
        return sum(x.size for x in jax.tree.leaves(pull))

    assert saved("full") < saved("dots") < saved("none")


@pytest.mark.parametrize(("names", "message"), [
    ({"remat": "ful"}, r"train\.remat='ful' .*'full'"),
    ({"dtype": "bf16"}, r"train\.dtype='bf16' .*'bfloat16'"),
    ({"param_dtype": "f32"}, r"train\.param_dtype='f32'"),
])
def test_make_compute_refuses(names, message):
    with pytest.raises(UserError, match=message):
        make_compute(**names)


def test_dtypes_by_platform():
    assert make_compute().dtype == np.float32  # on a CPU
    low = make_compute(dtype="bfloat16", param_dtype="auto")
    assert (low.dtype, low.param_dtype) == (jnp.bfloat16, np.float32)
