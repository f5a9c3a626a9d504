"""nf4 against bitsandbytes' published codebook and error; packed matrices against their floats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.nn.quantised import NF4, Int8, Nf4, project_packed

# The mean error and relative error of nf4 in blocks of 64, of normal entries: bitsandbytes,
# tests/test_functional.py, test_4bit_quant, the mean of 1,000 samples.
PUBLISHED = 0.072792, 0.203299


def errors(packing, kernel):
    found = packing.unpack(packing.pack(kernel), jnp.float32)
    error = jnp.abs(found - kernel)
    return float(error.mean()), float((error / (jnp.abs(kernel) + 1e-8)).mean())


def bits(arrays, entries):
    return sum(8 * a.size * a.dtype.itemsize for a in arrays.values()) / entries


def test_the_codebook_is_the_published_one():
    """Quantiles of N(0, 1) as in QLoRA's appendix E: 8 up to 0, 9 from it, the ends at ±1."""
    from scipy.stats import norm

    end = 0.9677083  # (1 - 1/30 + 1 - 1/32) / 2
    upper = norm.ppf(np.linspace(end, 0.5, 9)[:-1])
    lower = -norm.ppf(np.linspace(end, 0.5, 8)[:-1])
    quantiles = np.sort([*upper, 0.0, *lower]) / max(upper)
    np.testing.assert_allclose(NF4, quantiles, atol=1e-5)
    assert NF4[1] == np.float32(-0.6961928009986877) and NF4[14] == np.float32(0.7229568362236023)


@pytest.mark.parametrize("double", [True, False])
def test_error_of_a_normal_matrix_is_the_published_one(double):
    kernel = jax.random.normal(jax.random.key(0), (1024, 1024))
    np.testing.assert_allclose(
        errors(Nf4((1024,), (1024,), double), kernel), PUBLISHED, rtol=0.02
    )


def test_codes_are_those_of_bitsandbytes():
    """Nearest entries, times the largest of 64 inputs of an output; the first half byte is first.
    """
    kernel = jax.random.normal(jax.random.key(1), (128, 3))
    arrays = Nf4((128,), (3,), double=False).pack(kernel)
    weight = np.asarray(kernel).T.reshape(-1, 64)  # torch's [outputs, inputs] in blocks
    largest = np.abs(weight).max(1, keepdims=True)
    nearest = np.abs((weight / largest)[..., None] - NF4).argmin(-1).reshape(3, 128)
    codes = np.asarray(arrays["codes"]).T
    np.testing.assert_array_equal(np.stack([codes >> 4, codes & 15], -1).reshape(3, 128), nearest)
    np.testing.assert_array_equal(np.asarray(arrays["scales"]).T.reshape(-1, 1), largest)


def test_bits_an_entry():
    """What a Llama 3.1 8B's matrices take, in their own shapes."""
    total = entries = 0
    for inputs, outputs in (((4096,), (32, 128)), ((4096,), (8, 128)), ((32, 128), (4096,)),
                            ((4096,), (14_336,)), ((14_336,), (4096,))):
        shape = jax.ShapeDtypeStruct((*inputs, *outputs), jnp.bfloat16)
        size = int(np.prod(shape.shape))
        arrays = jax.eval_shape(Nf4(inputs, outputs).pack, shape)
        assert bits(arrays, size) <= 4.13
        total, entries = total + bits(arrays, size) * size, entries + size
    assert 4.125 < total / entries <= 4.13
    plain = jax.eval_shape(Nf4((4096,), (4096,), False).pack, jax.ShapeDtypeStruct(
        (4096, 4096), jnp.float32))
    assert bits(plain, 4096**2) == 4.5


@pytest.mark.parametrize("packing", [
    Nf4((64,), (4, 16)), Int8((4, 16), (24,)), Int8((100,), (3, 2)),
    *(pytest.param(packing, marks=pytest.mark.thorough) for packing in (
        Nf4((4, 16), (24,)), Nf4((100,), (3,)), Nf4((130,), (2, 6), False),
    )),
])
def test_any_shape_comes_back(packing):
    kernel = jax.random.normal(jax.random.key(2), (*packing.inputs, *packing.outputs))
    found = packing.unpack(packing.pack(kernel), jnp.float32)
    assert found.shape == kernel.shape
    step = 0.01 if isinstance(packing, Int8) else 0.16  # of the largest of its block, at most
    assert float(jnp.abs(found - kernel).max()) < step * float(jnp.abs(kernel).max())


def test_zeros_and_outliers():
    for packing in (Nf4((64,), (4,)), Nf4((64,), (4,), False), Int8((64,), (4,))):
        assert not packing.unpack(packing.pack(jnp.zeros((64, 4))), jnp.float32).any()
        large = jnp.zeros((64, 4)).at[3, 1].set(1e4)
        found = packing.unpack(packing.pack(large), jnp.float32)
        np.testing.assert_allclose(found, large, atol=1e2)


@pytest.mark.parametrize("packing", [Nf4((4, 16), (6, 8)), Int8((4, 16), (6, 8))])
def test_the_product_and_its_gradient_are_those_of_the_floats(packing):
    kernel = jax.random.normal(jax.random.key(3), (4, 16, 6, 8))
    x = jax.random.normal(jax.random.key(4), (2, 5, 4, 16))
    arrays = packing.pack(kernel)
    floats = packing.unpack(arrays, jnp.float32)
    weight = jax.random.normal(jax.random.key(5), (2, 5, 6, 8))

    def packed(x):
        return jnp.sum(weight * project_packed(packing, x, arrays))

    def plain(x):
        return jnp.sum(weight * jnp.tensordot(x, floats, 2))

    for one, other in zip(*(jax.value_and_grad(f)(x) for f in (packed, plain)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
