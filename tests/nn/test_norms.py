"""Norms and activations against float64 numpy, and against torch where it is installed."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.nn.config import MlpConfig, NormConfig
from jaxllm.nn.mlp import ACTIVATIONS, Mlp
from jaxllm.nn.module import split
from jaxllm.nn.norms import NORMS, make_norm

EPS = 1e-3  # large enough to matter
GRID = np.linspace(-6, 6, 101)


def made(kind, compute, width=12, **options):
    """A norm with scale and bias away from one and zero, and those as numpy."""
    norm = make_norm(jax.random.key(0), compute, width, NormConfig(kind, EPS, **options))
    rng = np.random.default_rng(1)
    scale, bias = rng.normal(size=(2, width))
    norm.scale.set_value(jnp.asarray(scale, jnp.float32))
    if kind == "layernorm":
        norm.bias.set_value(jnp.asarray(bias, jnp.float32))
    return norm, scale, bias


def sample():
    return np.random.default_rng(0).normal(0.7, 0.05, size=(3, 5, 12))


def plain(kind, x, scale, bias):
    if kind == "rmsnorm":
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * scale
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS) * scale + bias


@pytest.mark.parametrize("kind", NORMS)
def test_norm_equals_numpy(compute, kind):
    norm, scale, bias = made(kind, compute)
    expected = plain(kind, sample(), scale, bias)
    np.testing.assert_allclose(norm(sample().astype(np.float32)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_norm_statistics_are_float32(compute, kind):
    """bfloat16 inputs far from zero: their squares' mean would be off in bfloat16."""
    norm, scale, bias = made(kind, compute)
    x = jnp.asarray(sample() + 50, jnp.bfloat16)
    expected = plain(kind, np.asarray(x, np.float64), scale, bias)
    np.testing.assert_allclose(norm(x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", NORMS)
def test_norm_equals_torch(compute, kind):
    torch = pytest.importorskip("torch")
    norm, scale, bias = made(kind, compute)
    theirs = torch.nn.RMSNorm(12, EPS) if kind == "rmsnorm" else torch.nn.LayerNorm(12, EPS)
    theirs.weight.data = torch.tensor(scale, dtype=torch.float32)
    if kind == "layernorm":
        theirs.bias.data = torch.tensor(bias, dtype=torch.float32)
    expected = theirs(torch.tensor(sample(), dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(norm(sample().astype(np.float32)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_a_unit_offset_is_added_to_the_scale(compute, kind):
    norm, scale, bias = made(kind, compute, unit_offset=True)
    expected = plain(kind, sample(), 1 + scale, bias)
    np.testing.assert_allclose(norm(sample().astype(np.float32)), expected, rtol=1e-4, atol=1e-5)
    fresh = make_norm(
        jax.random.key(0), compute, 12, NormConfig(kind, EPS, unit_offset=True)
    )
    assert not np.any(fresh.scale[...])


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_that_learns_nothing(compute, kind):
    norm = make_norm(jax.random.key(0), compute, 12, NormConfig(kind, EPS, learned=False))
    assert split(norm)[1] == {}
    expected = plain(kind, sample(), 1, 0)
    np.testing.assert_allclose(norm(sample().astype(np.float32)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_of_several_dimensions(compute, kind):
    """OLMo 2's of all heads' vectors as one; Qwen3's of each is that of the last dimension."""
    sizes = {"heads": 3, "head_dim": 4}
    norm = make_norm(jax.random.key(0), compute, sizes, NormConfig(kind, EPS))
    scale = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    norm.scale.set_value(jnp.asarray(scale))
    x = sample().astype(np.float32)
    expected = plain(kind, sample(), scale.reshape(-1), 0)
    found = norm(x.reshape(3, 5, 3, 4)).reshape(x.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_unknown_norm(compute):
    with pytest.raises(UserError, match=r"model\.norm\.kind='rmsnrm' is unknown.*'rmsnorm'"):
        make_norm(jax.random.key(0), compute, 4, NormConfig("rmsnrm"))


FORMULAS = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "relu": lambda x: max(x, 0.0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_equals_its_formula(name):
    expected = [FORMULAS[name](x) for x in GRID]
    found = ACTIVATIONS[name](GRID.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_equals_torch(name):
    torch = pytest.importorskip("torch")
    functions = {
        "silu": torch.nn.SiLU(), "gelu": torch.nn.GELU(), "relu": torch.nn.ReLU(),
        "gelu_tanh": torch.nn.GELU(approximate="tanh"),
    }
    expected = functions[name](torch.tensor(GRID, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(ACTIVATIONS[name](GRID.astype(np.float32)), expected, atol=2e-6)


@pytest.mark.parametrize("gated", [True, False])
def test_mlp_equals_numpy(compute, gated):
    config = MlpConfig(width=7, activation="relu", gated=gated, bias=True)
    mlp = Mlp(jax.random.key(0), compute, 5, config, stddev=0.5, output_stddev=0.5)
    for seed, layer in enumerate((mlp.up, mlp.down, mlp.gate)):
        if layer is not None:
            layer.bias.set_value(jax.random.normal(jax.random.key(seed), layer.bias[...].shape))
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)

    def linear(layer, x):
        return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])

    hidden = np.maximum(linear(mlp.gate if gated else mlp.up, x), 0)
    if gated:
        hidden = hidden * linear(mlp.up, x)
    np.testing.assert_allclose(mlp(x), linear(mlp.down, hidden), rtol=1e-5, atol=1e-5)


def test_an_unknown_activation(compute):
    with pytest.raises(UserError, match=r"model\.mlp\.activation='sillu' .*'silu'"):
        Mlp(jax.random.key(0), compute, 4, MlpConfig(activation="sillu"), stddev=1, output_stddev=1)
