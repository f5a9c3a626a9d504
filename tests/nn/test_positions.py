"""RoPE and its scalings, ALiBi and relative buckets against their papers and against transformers.

The committed numbers were printed by transformers 5.23 (`ROPE_INIT_FUNCTIONS["llama3"]`,
`T5Attention._relative_position_bucket`); where it is installed they are computed afresh.
"""

import jax
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.fields import Rope
from jaxllm.nn.config import PositionConfig
from jaxllm.nn.positions import RelativeBias, alibi, rotate, rotations

LLAMA3 = PositionConfig(
    theta=500_000.0, scaling="llama3", scaling_factor=8.0, low_frequency_factor=1.0,
    high_frequency_factor=4.0, original_max_length=64,
)
FREQUENCIES_16 = [
    1.0, 0.079403013, 0.0047007538, 0.00091158313,
    0.00017677668, 3.4281024e-05, 6.6478697e-06, 1.2891732e-06,
]


def turns(config, head_dim, length=2, kind="global"):
    """(frequencies, factor on sines and cosines), read off the rotation of positions 0 and 1."""
    positions = np.array([[0, 1, length - 1]], np.int32)
    rotation = rotations(positions, config, head_dim)[kind]
    sin, cos = (np.asarray(x, np.float64)[0, 1, 0] for x in rotation)
    return np.arctan2(sin, cos), float(rotation.cos[0, 0, 0, 0])


def test_unscaled_frequencies():
    found, factor = turns(PositionConfig(theta=100.0), 6)
    np.testing.assert_allclose(found, [1.0, 100 ** (-1 / 3), 100 ** (-2 / 3)], rtol=1e-6)
    assert factor == 1.0


def test_llama3_frequencies_are_those_committed():
    found, _ = turns(LLAMA3, 16)
    np.testing.assert_allclose(found, FREQUENCIES_16, rtol=1e-6)
    plain, _ = turns(PositionConfig(theta=500_000.0), 16)
    ratio = plain / found  # fast ones kept, slow ones divided by 8, one or more between
    assert ratio[0] == pytest.approx(1) and ratio[-1] == pytest.approx(8)
    assert np.any((ratio > 1.1) & (ratio < 7.9))


LONG = {"short_factors": tuple(np.linspace(1, 2, 16)), "long_factors": tuple(np.linspace(2, 9, 16))}


@pytest.mark.parametrize("config", [
    LLAMA3,
    PositionConfig(theta=10_000.0, scaling="llama3", scaling_factor=32.0, original_max_length=8192),
    PositionConfig(theta=700.0, scaling="llama3", scaling_factor=4.0, low_frequency_factor=2.0,
                   high_frequency_factor=3.0, original_max_length=100),
    PositionConfig(theta=700.0),
    PositionConfig(theta=700.0, rotary_fraction=0.5),
    PositionConfig(theta=700.0, scaling="linear", scaling_factor=3.5),
    PositionConfig(theta=700.0, scaling="yarn", scaling_factor=4.0, original_max_length=256,
                   beta_fast=20.0, beta_slow=2.0),
    PositionConfig(theta=700.0, scaling="yarn", scaling_factor=4.0, original_max_length=256,
                   attention_factor=1.3),
    PositionConfig(theta=700.0, scaling="longrope", original_max_length=512, **LONG),
    PositionConfig(theta=700.0, scaling="longrope", original_max_length=64, **LONG),
    PositionConfig(theta=700.0, scaling="longrope", original_max_length=64, attention_factor=1.7,
                   **LONG),
], ids=lambda config: config.scaling)
def test_rotations_equal_those_of_transformers(config):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    written = Rope(fraction=1.0).write(ModelConfig(positions=config))["rope_parameters"]
    options = {
        "hidden_size": 64, "num_attention_heads": 2, "rope_parameters": written,
        "max_position_embeddings": config.max_length, "pad_token_id": 0,
    }
    models = transformers.models
    if config.scaling == "longrope":
        embedding = models.phi3.modeling_phi3.Phi3RotaryEmbedding(transformers.Phi3Config(
            **options, original_max_position_embeddings=config.original_max_length
        ))
    else:
        embedding = models.phi.modeling_phi.PhiRotaryEmbedding(transformers.PhiConfig(**options))
    positions = np.arange(200, dtype=np.int32)[None]
    cos, sin = embedding(torch.zeros(1, 200, 64), torch.tensor(positions).long())
    found = rotations(positions, config, 32)["global"]
    half = found.cos.shape[-1]
    np.testing.assert_allclose(found.cos[:, :, 0], cos.numpy()[..., :half], atol=3e-5)
    np.testing.assert_allclose(found.sin[:, :, 0], sin.numpy()[..., :half], atol=3e-5)


def test_local_layers_have_a_base_of_their_own():
    config = PositionConfig(theta=700.0, local_theta=30.0, scaling="linear", scaling_factor=4.0)
    plain, _ = turns(PositionConfig(theta=30.0), 8)
    np.testing.assert_allclose(turns(config, 8, kind="local")[0], plain, rtol=1e-6)
    squeezed, _ = turns(PositionConfig(theta=700.0), 8)
    np.testing.assert_allclose(turns(config, 8)[0], squeezed / 4, rtol=1e-6)


def test_longrope_without_its_factors():
    with pytest.raises(UserError, match=r"model\.positions\.short_factors has 0 .* 4 frequencies"):
        turns(PositionConfig(scaling="longrope"), 8)


def test_rotation_is_that_of_complex_numbers():
    """Dimensions i and i + R/2 are the real and imaginary part of a number turned by its angle."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 3, 8)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3, 900], [0, 1, 0, 1, 2]], np.int32)  # restarts in row 1
    config = PositionConfig(theta=50.0)
    turned = rotate(x, rotations(positions, config, 8)["global"])
    angles = positions[..., None, None] * 50.0 ** -(np.arange(0, 8, 2) / 8)
    expected = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)
    expected = np.concatenate([expected.real, expected.imag], -1)
    np.testing.assert_allclose(turned, expected, atol=2e-4)  # float32 angles at position 900
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])


def test_dimensions_beyond_the_fraction_stay():
    x = np.random.default_rng(0).normal(size=(1, 5, 3, 10)).astype(np.float32)
    positions = np.arange(5, dtype=np.int32)[None]
    config = PositionConfig(theta=50.0, rotary_fraction=0.4)
    turned = rotate(x, rotations(positions, config, 10)["global"])
    np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])
    whole = PositionConfig(theta=50.0)
    expected = rotate(x[..., :4], rotations(positions, whole, 4)["global"])
    np.testing.assert_allclose(turned[..., :4], expected, atol=1e-6)


def test_scores_depend_on_distance_alone():
    rng = np.random.default_rng(1)
    q, k = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    config = PositionConfig()

    def score(i, j):
        turn = [rotations(np.array([[n]], np.int32), config, 8)["global"] for n in (i, j)]
        return float(np.sum(rotate(q, turn[0]) * rotate(k, turn[1])))

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)


def test_an_unknown_scaling():
    with pytest.raises(UserError, match=r"model\.positions\.scaling='lama3' .*'llama3'"):
        turns(PositionConfig(scaling="lama3"), 8)


@pytest.mark.parametrize(("heads", "slopes"), [
    (8, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]),  # the paper's
    (2, [1 / 16, 1 / 256]),
    # those of 4 heads, then every other one of 8
    (6, [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]),
])
def test_alibi_slopes(heads, slopes):
    queries, keys = np.array([[5, 9]]), np.array([[0, 3, 5, 9]])
    bias = alibi(queries, keys, heads)
    distance = keys[:, None, None] - queries[:, None, :, None]
    np.testing.assert_allclose(bias, np.array(slopes)[None, :, None, None] * distance, rtol=1e-6)


# buckets of distances -40, -39, … 40 (key minus query), 8 buckets up to a distance of 20
CAUSAL_BUCKETS = [7] * 27 + [6] * 5 + [5] * 3 + [4] * 2 + [3, 2, 1] + [0] * 41
BOTH_BUCKETS = [3] * 34 + [2] * 5 + [1, 0, 5] + [6] * 5 + [7] * 34


def found_buckets(bidirectional, compute, buckets=8, reach=20, width=40):
    config = PositionConfig(kind="relative", buckets=buckets, max_distance=reach)
    bias = RelativeBias(
        jax.random.key(0), compute, 1, config, bidirectional=bidirectional, stddev=1.0
    )
    bias.table.set_value(np.arange(buckets, dtype=np.float32)[:, None])
    found = bias(np.array([[width]]), np.arange(2 * width + 1)[None])
    return np.asarray(found[0, 0, 0], np.int32)


def test_relative_buckets_are_those_committed(compute):
    np.testing.assert_array_equal(found_buckets(False, compute), CAUSAL_BUCKETS)
    np.testing.assert_array_equal(found_buckets(True, compute), BOTH_BUCKETS)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "reach"), [(32, 128), (10, 13), (7, 20)])
def test_relative_buckets_equal_those_of_transformers(compute, bidirectional, buckets, reach):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.t5.modeling_t5 import T5Attention

    expected = T5Attention._relative_position_bucket(
        torch.arange(-200, 201), bidirectional, buckets, reach
    )
    found = found_buckets(bidirectional, compute, buckets, reach, 200)
    np.testing.assert_array_equal(found, expected)
