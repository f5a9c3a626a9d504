"""Meshes that are refused and meshes that are found."""

import itertools

import pytest

from jaxllm.core.axes import divisors
from jaxllm.core.config import MeshConfig
from jaxllm.core.errors import UserError
from jaxllm.plan.memory import fits
from jaxllm.plan.remat import POLICIES
from jaxllm.plan.search import evaluate, fits_slice, hbm, meshes, search, settled, smallest
from jaxllm.plan.slices import parse_slice
from jaxllm.plan.workload import Mesh, check_mesh, resolve_mesh
from tests.plan.helpers import workload


def test_the_free_axis_is_filled_in():
    assert resolve_mesh(MeshConfig(), 64) == Mesh(fsdp=64)
    assert resolve_mesh(MeshConfig(tensor=4), 64) == Mesh(fsdp=16, tensor=4)
    assert resolve_mesh(MeshConfig(data=-1, fsdp=8, tensor=2), 64).data == 4


@pytest.mark.parametrize(("mesh", "words"), [
    (MeshConfig(fsdp=10), ["fsdp 10", "needs 10 devices", "there are 64", "divides it is 8"]),
    (MeshConfig(fsdp=32), ["needs 32 devices", "multiply to 64", "divides it is 32"]),
    (MeshConfig(tensor=3), ["tensor 3", "64"]),
    (MeshConfig(data=-1), ["Only one mesh axis may be -1", "data, fsdp"]),
    (MeshConfig(tensor=0), ["mesh.tensor=0 must be at least 1"]),
])
def test_meshes_that_do_not_multiply_to_the_devices(mesh, words):
    with pytest.raises(UserError) as error:
        resolve_mesh(mesh, 64)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(("mesh", "work", "words"), [
    (Mesh(tensor=64), workload(), ["mesh.tensor=64", "model.attention.heads=32",
                                   "only 32", "8, 16, 32"]),
    (Mesh(tensor=16), workload(), ["model.attention.kv_heads=8", "only 8", "2, 4, 8"]),
    (Mesh(context=3), workload(), ["mesh.context=3", "data.sequence_length=8192", "2, 4"]),
    (Mesh(stage=3), workload(), ["mesh.stage=3", "model.layers=32"]),
    (Mesh(fsdp=3), workload(), ["mesh.fsdp=3", "model.width=4096"]),
    (Mesh(data=2, fsdp=16), workload(rows=48), [
        "data.global_batch_size=48", "32 groups", "32 or 64"]),
    (Mesh(fsdp=16), workload(rows=48, accumulation=2), ["2 microbatches", "32 or 64"]),
    (Mesh(fsdp=64), workload(rows=16), ["data.global_batch_size=64,", "mesh.context"]),
])
def test_meshes_that_do_not_divide(mesh, work, words):
    with pytest.raises(UserError) as error:
        check_mesh(work, mesh)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("name", ["v5p:4x4x4", "v6e-64", "2xv5p-64", "h200:4x8"])
def test_everything_found_divides_fits_and_is_in_order(name):
    work, where = workload(rows=128), parse_slice(name)
    found = search(work, where)
    assert found
    for one in found:
        assert one.mesh.devices == where.devices
        assert fits(one.memory, hbm(where))
        check_mesh(work, one.mesh)
        assert where.count == 1 or 0 in (one.mesh.data % 2, one.mesh.stage % 2)
    times = [one.rank for one in found]
    assert all(a <= b * 1.01 for a, b in itertools.pairwise(times))


def test_plain_fsdp_wins_where_tokens_are_many():
    best = search(workload(rows=1024), parse_slice("v6e-256"))[0]
    assert best.mesh == Mesh(fsdp=256) and best.remat.name == "kv"


def test_the_host_is_asked_only_where_it_is_worth_it():
    """8B on v6e-16 has room for the attention's output; 70B on v6e-256 for nothing but weights."""
    work, where = workload(rows=64), parse_slice("v6e-16")
    assert settled("auto", work, where, Mesh(fsdp=16)).name == "attention"
    work, where = workload("llama3.1_70b", rows=512), parse_slice("v6e-256")
    best = search(work, where, among=[Mesh(fsdp=256)])[0]
    assert best.memory.offloaded > 20e9 and best.step.host == 0
    assert best.step.total < evaluate(work, where, best.mesh, POLICIES["full"]).step.total


def test_a_host_with_less_memory_than_a_policy_wants(monkeypatch):
    work, where = workload("llama3.1_70b", rows=512), parse_slice("v6e-256")
    used = evaluate(work, where, Mesh(fsdp=256), POLICIES["kv_offload"]).memory
    assert fits_slice(used, where)
    monkeypatch.setattr("jaxllm.plan.search.HOST_SHARE", 0.9 * used.offloaded * 8 / 1440e9)
    assert not fits_slice(used, where)


def test_a_long_row_is_cut_along_the_sequence():
    work, where = workload(rows=4, length=131_072), parse_slice("v5p:4x4x4")
    assert {one.mesh.groups for one in search(work, where)} <= {1, 2, 4}
    assert search(work, where)[0].mesh == Mesh(fsdp=4, context=16)


def test_a_batch_too_large_at_once_is_accumulated():
    work, where = workload("llama3.1_70b", rows=4096), parse_slice("v5p-256")
    found = search(work, where)
    assert found and all(one.accumulation == found[0].accumulation > 1 for one in found)
    assert found[0].words().endswith("microbatches")


def test_the_smallest_slice():
    found = smallest(workload(rows=256), parse_slice("v6e-256"))
    assert found.where.name == "v6e:2x4"  # 8B with AdamW: 128 GB of state and gradients
    assert fits(found.memory, hbm(found.where))
    four = parse_slice("v6e:2x2")
    assert not search(workload(rows=256), four)
    large = smallest(workload("gpt3_175b", rows=256, length=2048), parse_slice("v5p-8"))
    assert large.where.chips == 64  # 2.8 TB of state and gradients: 44 GB a chip
    assert smallest(workload("llama3.1_405b", rows=8), parse_slice("v5e-1")) is None


def test_meshes_of_a_tiny_model():
    work = workload("llama2_7b", rows=8, length=4096)
    found = list(meshes(work, parse_slice("v5p:2x2x2")))
    assert Mesh(fsdp=8) in found and Mesh(fsdp=4, tensor=2) in found
    assert len(found) == len(set(found))
    assert divisors(12) == [1, 2, 3, 4, 6, 12]


def test_evaluate_is_what_search_finds():
    work, where = workload(rows=1024), parse_slice("v6e-256")
    best = search(work, where)[0]
    assert evaluate(work, where, best.mesh, best.remat) == best
