"""The roofline against published runs and against limits that anyone can compute."""

import dataclasses
from pathlib import Path

import pytest

from jaxllm.plan.calibration import RUNS, calibration
from jaxllm.plan.flops import SPLASH, SPLASH_FUSED, model_flops
from jaxllm.plan.links import link_rates
from jaxllm.plan.remat import POLICIES
from jaxllm.plan.roofline import EFFICIENCY, Efficiency, microbatches, step_time
from jaxllm.plan.slices import parse_slice
from jaxllm.plan.workload import Mesh
from tests.plan.helpers import workload

FULL = POLICIES["full"]
V6E = parse_slice("v6e-256")


def step(work=None, where=V6E, mesh=None, remat=FULL, kernel=SPLASH, **options):
    work = work or workload(rows=1024)
    return step_time(work, where, mesh or Mesh(fsdp=where.devices), remat, kernel, **options)


@pytest.mark.parametrize("row", calibration(), ids=lambda row: row.run.name)
def test_published_runs_are_predicted_within_15_percent(row):
    assert abs(row.deviation) < 0.15


def test_the_calibrated_runs_are_the_published_ones():
    """peers.md, section 1: MFU with causal attention counted once."""
    measured = {row.run.name: row.measured for row in calibration(RUNS[:3])}
    assert measured == pytest.approx({
        "llama3.1_8b on v6e-256": 0.404, "llama3.1_70b on v6e-256": 0.470,
        "llama2_70b on v5p-512": 0.646,
    }, rel=0.005)


def test_parts_add_up_and_mfu_is_its_formula():
    work = workload(rows=1024)
    found = step(work)
    assert found.total == sum(found.parts().values())
    assert found.tokens_per_second == 1024 * 8192 / found.total
    flops = 1024 * model_flops(work.shape, work.lengths)
    assert found.mfu == pytest.approx(flops / (256 * 918e12 * found.total))
    assert found.mfu_unhidden < found.mfu


def test_with_perfect_rates_full_remat_costs_a_known_share():
    perfect = Efficiency(1.0, 1.0, 1e9, 1e9)
    where = parse_slice("v5p:4x4x4")
    work = workload(rows=64)
    found = step(work, where, rates=perfect)
    layer, down, head = 218_103_808 * 32, 4096 * 14_336 * 32, 4096 * 128_256
    products = 2 * (3 * layer + (layer - down) + 4 * head) * 8192
    pairs = 8192 * 8192 * (17 / 32) * 2 * 4096 * 32  # 16 tiles of 512: 136 of 256
    assert found.total == pytest.approx((products + 11 * pairs) / 459e12, rel=0.01)


def test_less_recompute_is_faster():
    times = [step(remat=POLICIES[n]).total for n in ("full", "attention", "projections", "none")]
    assert times == sorted(times, reverse=True)
    assert step(kernel=SPLASH_FUSED).total < step().total


def test_interconnect_by_mesh():
    v5p, link = parse_slice("v5p:4x4x8"), 90e9
    assert link_rates(v5p, Mesh(fsdp=128))["fsdp"] == 6 * link  # three rings, both directions
    links = link_rates(v5p, Mesh(fsdp=32, tensor=4))
    assert (links["tensor"], links["fsdp"]) == (2 * link, 4 * link)
    assert link_rates(parse_slice("v6e-16"), Mesh(fsdp=16))["fsdp"] == 2 * link  # lines, no rings
    assert link_rates(V6E, Mesh(fsdp=256))["fsdp"] == 4 * link
    assert link_rates(V6E, Mesh(fsdp=64, tensor=4))["tensor"] == link  # a part of a side
    gpus = parse_slice("h200:4x8")
    links = link_rates(gpus, Mesh(fsdp=4, tensor=8))
    assert (links["tensor"], links["fsdp"]) == (450e9, 50e9)
    assert link_rates(gpus, Mesh(fsdp=32))["fsdp"] == 400e9  # all cards of a host together


def test_costs_that_are_not_hidden():
    plain = step().total
    tensor = step(mesh=Mesh(fsdp=64, tensor=4))
    assert tensor.tensor > 0 and tensor.total > plain
    assert step(mesh=Mesh(data=2, fsdp=128)).data > 0
    many = parse_slice("2xv6e-256")
    split = step(workload(rows=2048), many, Mesh(data=2, fsdp=256))
    assert split.network > 0 and split.data == 0
    assert split.total == pytest.approx(plain + split.network, rel=0.01)
    pipeline = step(mesh=Mesh(fsdp=64, stage=4))
    assert pipeline.bubble > 0 and microbatches(workload(rows=1024), Mesh(fsdp=64, stage=4)) == 16
    few = step(workload(rows=256, length=1024))
    assert few.fsdp > 0.2 * few.total  # 1,024 tokens a chip do not hide the gathers


def test_accumulation_gathers_again():
    once, twice = step(), step(workload(rows=1024, accumulation=2))
    assert twice.fsdp > once.fsdp
    assert twice.products == pytest.approx(once.products)


def test_gpus_run_at_their_sustained_rate():
    where = parse_slice("h100:8")
    found = step(workload("llama2_7b", rows=32, length=4096), where, remat=POLICIES["projections"])
    assert 0.35 < found.mfu < 0.55  # MaxText: 492 TFLOP/s a GPU, 0.50 with full attention counted
    slower = dataclasses.replace(where.chip, sustained=0.4)
    assert step(workload("llama2_7b", rows=32, length=4096), dataclasses.replace(
        where, chip=slower)).products > found.products * 1.9


def test_the_docs_have_the_newest_calibration():
    text = (Path(__file__).resolve().parents[2] / "docs/plan.md").read_text()
    for row in calibration():
        numbers = (row.measured, row.predicted)
        words = " | ".join(f"{100 * n:.1f} %" for n in numbers)
        assert f"| {row.run.name} | " in text and words in text, row.run.name
    for name in ("matmul", "attention", "memory", "network"):
        assert f"{getattr(EFFICIENCY, name):.2f}" in text
    ours = step(remat=POLICIES["kv"], kernel=workload(rows=1024).kernel(V6E.chip))
    assert f"{100 * ours.mfu:.1f} % with remat" in text
    assert f"{100 * ours.mfu_unhidden:.1f} % if FSDP" in text


def test_what_goes_to_the_host_costs_what_the_layers_do_not_hide():
    """On v6e 32 GB/s: 90 GB a step there and back with the MLP's two products."""
    work, where, mesh = workload(rows=64), parse_slice("v6e-16"), Mesh(fsdp=16)
    offloaded = step(work, where, mesh, POLICIES["mlp_offload"])
    kept = step(work, where, mesh, POLICIES["mlp"])
    tokens, entries = 4 * 8192 * 32, 2 * 4096 + 4096 + 2 * 1024 + 2 * 14336
    one_way = tokens * (2 * entries + 4 * 32) / 32e9  # and log Z of 32 heads
    layers = kept.products + kept.attention + kept.recompute + kept.between
    assert one_way > layers / 2 and offloaded.host == pytest.approx(2 * one_way - layers)
    assert offloaded.total == pytest.approx(kept.total + offloaded.host)
    assert step(work, where, mesh, POLICIES["kv_offload"]).host == 0


def test_an_optimizer_on_the_host_moves_there_and_back():
    work, where, mesh = workload(rows=64), parse_slice("v6e-16"), Mesh(fsdp=16)
    there = step(dataclasses.replace(work, optimizer_on_host=True), where, mesh)
    moved = 2 * 8 * 8.03e9 / 16 / 32e9
    assert there.host == pytest.approx(moved, rel=0.01)
