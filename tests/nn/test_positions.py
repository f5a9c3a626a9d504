"""RoPE against complex rotation in numpy, and frequencies against transformers' Llama.

The committed numbers were printed by transformers 5.23 (`ROPE_INIT_FUNCTIONS["llama3"]`); where it
is installed they are computed afresh.
"""

import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.nn.config import PositionConfig
from jaxllm.nn.positions import frequencies, rotate, rotation

LLAMA3 = PositionConfig(
    theta=500_000.0, scaling="llama3", scaling_factor=8.0, low_frequency_factor=1.0,
    high_frequency_factor=4.0, original_max_length=64,
)
FREQUENCIES_16 = [
    1.0, 0.079403013, 0.0047007538, 0.00091158313,
    0.00017677668, 3.4281024e-05, 6.6478697e-06, 1.2891732e-06,
]


def test_unscaled_frequencies():
    found = frequencies(PositionConfig(theta=100.0), 6)
    np.testing.assert_allclose(found, [1.0, 100 ** (-1 / 3), 100 ** (-2 / 3)], rtol=1e-6)


def test_llama3_frequencies_are_those_committed():
    found = frequencies(LLAMA3, 16)
    np.testing.assert_allclose(found, FREQUENCIES_16, rtol=1e-6)
    plain = frequencies(PositionConfig(theta=500_000.0), 16)
    ratio = plain / found  # fast ones kept, slow ones divided by 8, one or more between
    assert ratio[0] == 1 and ratio[-1] == pytest.approx(8) and np.any((ratio > 1.1) & (ratio < 7.9))


@pytest.mark.parametrize("config", [
    LLAMA3,
    PositionConfig(theta=10_000.0, scaling="llama3", scaling_factor=32.0, original_max_length=8192),
    PositionConfig(theta=700.0, scaling="llama3", scaling_factor=4.0, low_frequency_factor=2.0,
                   high_frequency_factor=3.0, original_max_length=100),
    PositionConfig(theta=700.0),
])
def test_frequencies_equal_those_of_transformers(config):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    parameters = {"rope_theta": config.theta, "rope_type": "default"}
    if config.scaling == "llama3":
        parameters |= {
            "rope_type": "llama3", "factor": config.scaling_factor,
            "low_freq_factor": config.low_frequency_factor,
            "high_freq_factor": config.high_frequency_factor,
            "original_max_position_embeddings": config.original_max_length,
        }
    llama = transformers.LlamaConfig(
        hidden_size=64, num_attention_heads=2, head_dim=32, rope_parameters=parameters,
        max_position_embeddings=2048,
    )
    embedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(llama)
    np.testing.assert_allclose(
        frequencies(config, 32), embedding.inv_freq.numpy(), rtol=2e-6
    )


def test_rotation_is_that_of_complex_numbers():
    """Dimensions i and i + H/2 are the real and imaginary part of a number turned by its angle."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 3, 8)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3, 900], [0, 1, 0, 1, 2]], np.int32)  # restarts in row 1
    config = PositionConfig(theta=50.0)
    turned = rotate(x, rotation(positions, config, 8))
    angles = positions[..., None, None] * frequencies(config, 8).astype(np.float64)
    expected = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)
    expected = np.concatenate([expected.real, expected.imag], -1)
    np.testing.assert_allclose(turned, expected, atol=2e-4)  # float32 angles at position 900
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])


def test_scores_depend_on_distance_alone():
    rng = np.random.default_rng(1)
    q, k = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    config = PositionConfig()

    def score(i, j):
        turn = [rotation(np.array([[n]], np.int32), config, 8) for n in (i, j)]
        return float(np.sum(rotate(q, turn[0]) * rotate(k, turn[1])))

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)


def test_an_unknown_scaling():
    with pytest.raises(UserError, match=r"model\.positions\.scaling='lama3' .*'llama3'"):
        frequencies(PositionConfig(scaling="lama3"), 8)
