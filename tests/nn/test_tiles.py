"""Splash tiles: what was measured fits the estimate, and what is chosen fits the chip."""

import jax
import numpy as np
import pytest

from jaxllm.nn.kernels import tiles as module
from jaxllm.nn.kernels.attention import Pattern, Places, refusal
from jaxllm.nn.kernels.tiles import MIB, VMEM, Tiles, memory, tiles

from .reference import documents, qkv
from .test_attention import run


@pytest.mark.parametrize(("shape", "backward", "measured"), [
    ((1024, 1024, 1024), False, 10.29), ((1024, 1024, 512), False, 8.76),
    ((2048, 2048, 512), False, 25.74), ((1024, 1024, 512), True, 7.21),
    ((2048, 2048, 512), True, 13.73), ((1024, 1024, 1024), True, 9.58),
    ((4096, 4096, 2048), True, 64.8),
])
def test_the_estimate_is_above_what_the_compiler_wanted(shape, backward, measured):
    assert measured < memory(*shape, 128, 2, backward) / MIB < 1.3 * measured


@pytest.mark.parametrize("chip", VMEM)
@pytest.mark.parametrize("length", [128, 384, 2048, 8192, 131072])
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize(("head_dim", "itemsize"), [(64, 2), (128, 2), (256, 2), (256, 4)])
def test_what_is_chosen_fits_and_divides(chip, length, parts, head_dim, itemsize):
    length *= parts
    found = tiles(chip, length, parts, head_dim, itemsize)
    for query, key, compute, backward in ((*found[:3], False), (*found[3:6], True)):
        assert memory(query, key, compute, head_dim, itemsize, backward) <= VMEM[chip]
        assert length // parts % query == length % key == key % compute == 0
    assert found.fused == (length <= 4 * found.back_key)


def test_known_choices():
    """Five products backward where four copies of the queries' gradient are enough for it."""
    assert tiles("TPU v6 lite", 8192, 1, 128, 2) == Tiles(*(2048, 2048, 512) * 2, True)
    assert tiles("TPU v5", 8192, 1, 128, 2) == Tiles(*(1024, 2048, 512) * 2, True)
    assert not tiles("TPU v5", 32768, 1, 128, 2).fused
    assert tiles("TPU v5", 1024, 1, 128, 2).query == 512


def test_heads_too_wide_for_any_tile_are_refused(compute):
    assert tiles("TPU v5", 8192, 1, 8192, 4) is None
    x = jax.ShapeDtypeStruct((1, 128, 1, 8192), np.float32)
    reason = refusal("splash", Pattern(), Places(), x, x, None, compute)
    assert "no tile of heads of 8192 fits the vector memory of a cpu" in reason


@pytest.mark.parametrize("copies", [0, 4])
def test_the_backward_pass_in_one_kernel_equals_that_in_two(monkeypatch, copies):
    monkeypatch.setattr(module, "FUSED_COPIES", copies)
    monkeypatch.setattr(module, "SIZES", (128,))
    q, k, v = qkv((1, 256, 2, 1, 16))
    pattern, segments = Pattern(window=200), documents(1, 256)
    _, expected = run("xla", q, k, v, pattern, segments)
    _, found = run("splash_interpret", q, k, v, pattern, segments)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5)
