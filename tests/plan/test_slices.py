"""Names of slices, read as Google and libtpu write them, and refused with the nearest."""

import math

import pytest

from jaxllm.core.devices import PEAK_FLOPS
from jaxllm.core.errors import UserError
from jaxllm.plan.chips import CHIPS
from jaxllm.plan.slices import cloud_name, grids, parse_slice, slices


@pytest.mark.parametrize(("name", "grid", "chips", "hosts", "devices"), [
    ("v5p:4x4x8", (4, 4, 8), 128, 32, 128),
    ("v5p:8x4x4", (4, 4, 8), 128, 32, 128),
    ("v5p-128", (4, 4, 4), 64, 16, 64),
    ("v5p-8", (2, 2, 1), 4, 1, 4),
    ("v4-32", (2, 2, 4), 16, 4, 16),
    ("v5litepod-64", (8, 8), 64, 8, 64),
    ("v5e-64", (8, 8), 64, 8, 64),
    ("v6e-256", (16, 16), 256, 32, 256),
    ("v6e:16", (4, 4), 16, 2, 16),
    ("v5p:128", (4, 4, 8), 128, 32, 128),  # a count after a colon is of chips
    ("tpu7x-128", (4, 4, 4), 64, 16, 128),  # two devices a chip
    ("tpu7x:4x8x8", (4, 8, 8), 256, 64, 512),
    ("4xv5p-1024", (8, 8, 8), 2048, 512, 2048),
    ("2xv6e-256", (16, 16), 512, 64, 512),
    ("h200:8", (1, 8), 8, 1, 8),
    ("h200:16x8", (16, 8), 128, 16, 128),
    ("h100:64", (8, 8), 64, 8, 64),
    ("V5P-16", (2, 2, 2), 8, 2, 8),
])
def test_names(name, grid, chips, hosts, devices):
    where = parse_slice(name)
    assert (where.grid, where.chips, where.hosts, where.devices) == (grid, chips, hosts, devices)


def test_cloud_names_that_count_cores_are_translated():
    where = parse_slice("v5p-128")
    assert where.note == "v5p-128 counts TensorCores, 2 a chip: 64 chips, v5p:4x4x4"
    assert parse_slice("v6e-16").note == "" == parse_slice("v5p:4x4x4").note


@pytest.mark.parametrize(("name", "words"), [
    ("v5p-100", ["counts TensorCores, so it means 50 chips", "v5p:2x4x4 (32 chips, in Cloud "
                 "v5p-64)", "v5p:4x4x4 (64 chips, in Cloud v5p-128)"]),
    ("v5p-7", ["means 3.5 chips", "v5p:2x2x1 (4 chips, in Cloud v5p-8)"]),
    ("v6e-48", ["v6e:4x8 (32 chips, in Cloud v6e-32)", "v6e:8x8 (64 chips"]),
    ("v5e-512", ["v5e:16x16 (256 chips, in Cloud v5litepod-256)"]),
    ("v5p:3x4x4", ["has no such grid", "v5p:4x4x4"]),
    ("v5p", ["says no size", "v5p:2x2x1"]),
    ("v8-8", ["'v8' is no chip", "v4, v5e, v5p, v6e, tpu7x, h100, h200"]),
    ("h200:9", ["a host has 8 H200s", "h200:1x8"]),
    ("h200:2x16", ["a host has 8 H200s"]),
    ("4x4x8", ["is no slice", "v5p:4x4x8"]),
    ("", ["is no slice"]),
    ("0xv6e-4", ["at least 1 slice"]),
])
def test_unknown_slices_are_refused_with_the_nearest(name, words):
    with pytest.raises(UserError) as error:
        parse_slice(name)
    message = str(error.value)
    assert message.startswith("--topology")
    assert all(word in message for word in words), message


def test_an_unknown_chip_is_told_one_list():
    with pytest.raises(UserError, match=r"There are v4, [^.]*h200\.$"):
        parse_slice("zz-8")
    with pytest.raises(UserError, match=r"There are v4, [^.]*h200\. Did you mean 'h100'"):
        parse_slice("h1000:8")


@pytest.mark.parametrize("name", list(CHIPS))
def test_slices_grow_and_read_back(name):
    found = slices(CHIPS[name])
    assert [s.chips for s in found] == sorted({s.chips for s in found})
    for one in found:
        assert parse_slice(one.one) == one
        if CHIPS[name].torus:
            assert parse_slice(cloud_name(one)).grid == one.grid


def test_published_grids():
    assert grids(CHIPS["v5e"]) == grids(CHIPS["v6e"])
    published = [(2, 2, 1), (2, 2, 2), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8),
                 (8, 8, 16), (8, 16, 16), (16, 16, 16), (16, 16, 24)]
    assert set(published) <= set(grids(CHIPS["v5p"]))
    assert max(math.prod(g) for g in grids(CHIPS["v5p"])) == 6144  # the largest job
    assert parse_slice("v5p-2048").grid == (8, 8, 16)  # Cloud's own choice


def test_peaks_are_those_that_mfu_is_measured_against():
    for chip in CHIPS.values():
        assert chip.peak_flops == PEAK_FLOPS[chip.kind] * chip.devices
    assert CHIPS["tpu7x"].peak_flops == pytest.approx(2307e12, rel=1e-3)
