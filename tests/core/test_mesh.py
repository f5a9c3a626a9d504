"""Meshes and the rules from logical axes to them, on eight fake devices.

Specs are compared with hand-written PartitionSpecs, and placements with what each device holds.
"""

import dataclasses
import re

import jax
import numpy as np
import pytest
from jax.experimental import mesh_utils
from jax.sharding import PartitionSpec as P

from jaxllm.core import mesh
from jaxllm.core.config import MeshConfig
from jaxllm.core.errors import UserError
from jaxllm.core.mesh import (
    MESH_AXES,
    RULES,
    Sharding,
    check_batch,
    check_length,
    make_mesh,
    single_device,
)


def test_there_are_eight_devices():
    assert jax.device_count() == 8


@pytest.mark.parametrize(("axes", "shape"), [
    ({}, (1, 1, 1, 8, 1, 1, 1)),  # fsdp=-1 is the default
    ({"data": -1, "fsdp": 1}, (1, 1, 8, 1, 1, 1, 1)),
    ({"data": 2, "fsdp": 2, "tensor": 2}, (1, 1, 2, 2, 1, 1, 2)),
    ({"tensor": 4}, (1, 1, 1, 2, 1, 1, 4)),
    ({"stage": 2, "context": 2, "expert": 2}, (1, 2, 1, 1, 2, 2, 1)),
    ({"dcn": 2, "fsdp": -1}, (2, 1, 1, 4, 1, 1, 1)),
])
def test_make_mesh(axes, shape):
    mesh = make_mesh(MeshConfig(**axes))
    assert tuple(mesh.shape.values()) == shape
    assert mesh.axis_names == MESH_AXES
    assert {d.id for d in mesh.devices.flat} == set(range(8))


def test_a_mesh_over_some_devices():
    assert make_mesh(MeshConfig(), jax.devices()[:2]).devices.size == 2
    assert single_device().mesh.devices.size == 1


@pytest.mark.parametrize(("axes", "message"), [
    ({"data": 3, "fsdp": 1}, r"data 3\) needs 3 devices.*there are 8.*1, 2, 4, 8"),
    ({"data": 2, "fsdp": 2}, r"data 2 x fsdp 2\) needs 4 devices.*there are 8"),
    ({"data": 16}, r"needs 16 devices"),
    ({"fsdp": 1}, r"all axes 1\) needs 1 devices"),
    ({"data": -1}, r"Only one mesh axis may be -1; these are: data, fsdp"),
    ({"dcn": 3}, r"dcn 3 x fsdp -1\) needs 3 devices"),
    ({"tensor": 0}, r"mesh\.tensor=0 must be at least 1"),
    ({"tensor": -2}, r"mesh\.tensor=-2 must be at least 1"),
])
def test_make_mesh_refuses(axes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(MeshConfig(**axes))


@pytest.mark.parametrize(("mesh", "axes", "spec"), [
    ({"fsdp": 8}, ("embed", "mlp"), P("fsdp", None)),
    ({"tensor": 8}, ("embed", "mlp"), P(None, "tensor")),
    ({"data": 2, "fsdp": 2, "tensor": 2}, ("layers", "embed", "heads", "head_dim"),
     P(None, "fsdp", "tensor", None)),
    ({"data": 2, "fsdp": 2, "tensor": 2}, ("batch", "sequence", "act_embed"),
     P(("data", "fsdp"), None, None)),
    ({"data": 2, "fsdp": 2, "expert": 2}, ("batch",), P(("data", "fsdp", "expert"))),
    ({"data": 4, "context": 2}, ("batch", "sequence", None), P("data", "context", None)),
    ({"stage": 2, "tensor": 4}, ("layers", "vocab", "embed"), P("stage", "tensor", None)),
    ({"dcn": 2, "fsdp": 4}, ("batch", "sequence"), P(("dcn", "fsdp"), None)),
    ({"dcn": 2, "fsdp": 4}, ("embed", "mlp"), P("fsdp", None)),
    ({"context": 2, "tensor": 4}, ("batch", "stream", "act_embed"),
     P(None, ("context", "tensor"), None)),
])
def test_spec(sharding_of, mesh, axes, spec):
    assert sharding_of(**mesh).spec(axes) == spec


@pytest.mark.parametrize("sharding", [{"fsdp": 8}, None])
def test_unmapped_axes_raise_on_one_device_too(sharding_of, sharding):
    sharding = single_device() if sharding is None else sharding_of(**sharding)
    with pytest.raises(ValueError, match=r"No sharding rule for axis 'embde'.*'embed'"):
        sharding.spec(("embde",))


def test_two_dimensions_on_one_mesh_axis_raise(sharding_of):
    with pytest.raises(ValueError, match=r"two dimensions on mesh axis.*tensor"):
        sharding_of(tensor=8).spec(("heads", "mlp"))
    with pytest.raises(ValueError, match="fsdp"):
        sharding_of(fsdp=8).spec(("batch", "embed"))


def test_every_rule_names_mesh_axes():
    assert {name for _, axes in RULES for name in axes} <= set(MESH_AXES)
    assert len(dict(RULES)) == len(RULES)


def test_too_few_devices_on_a_cpu_name_the_way_to_try_it():
    with pytest.raises(UserError, match=r"there is 1\. Leave the axes at 1, or .*_count=2\."):
        make_mesh(MeshConfig(fsdp=2), jax.devices()[:1])
    with pytest.raises(UserError, match=r"there are 8\. Choose .* 4, 8; .* is 8, .*_count=16\."):
        make_mesh(MeshConfig(fsdp=16))


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU device as far as a mesh asks; `coords` lie on a line."""

    id: int
    slice_index: int
    platform: str = "tpu"
    device_kind: str = "TPU v5p"
    process_index: int = 0


def chips(*sizes):
    """Chips of slices of these sizes, mixed up."""
    found = [Chip(100 * i + j, i) for i, size in enumerate(sizes) for j in range(size)]
    return found[::2] + found[1::2]


def test_a_slice_is_an_index_of_the_outermost_axis(monkeypatch):
    monkeypatch.setattr(  # which needs coordinates
        mesh_utils, "create_device_mesh",
        lambda shape, devices, **_: np.array(sorted(devices, key=lambda d: d.id)).reshape(shape),
    )
    monkeypatch.setattr(mesh, "Mesh", lambda devices, names, axis_types: devices)
    found = mesh.make_mesh(MeshConfig(dcn=2, fsdp=-1, tensor=2), chips(4, 4))
    assert found.shape == (2, 1, 1, 2, 1, 1, 2)
    assert [[d.id for d in part.flat] for part in found] == [[0, 1, 2, 3], [100, 101, 102, 103]]


@pytest.mark.parametrize(("dcn", "sizes", "message"), [
    (1, (4, 4), r"mesh\.dcn=1 is not the number of slices: the 8 devices lie on 2, 4 on each"),
    (4, (4, 4), r"mesh\.dcn=4 .*Set mesh\.dcn=2, the other axes multiplying to 4"),
    (2, (8,), r"mesh\.dcn=2 .* lie on 1, 8 on each"),
    (2, (4, 2), r"The slices have 4, 2 devices"),
])
def test_slices_that_do_not_match_are_refused(dcn, sizes, message):
    with pytest.raises(UserError, match=message):
        mesh.make_mesh(MeshConfig(dcn=dcn, fsdp=-1), chips(*sizes))


def test_gradients_are_scattered_in_a_slice_before_they_are_summed_between_slices(sharding_of):
    sharding = sharding_of(dcn=2, fsdp=2, data=2)
    x = np.arange(8 * 4, dtype=np.float32).reshape(8, 4)

    def total(x):
        return sharding.summed(lambda x: x.T @ x, (x, ("batch", None)), axes=("embed", "mlp"))

    np.testing.assert_allclose(jax.jit(total)(x), x.T @ x)
    text = jax.jit(total).lower(x).as_text()
    kinds = re.findall(r"stablehlo\.(reduce_scatter|all_reduce)", text)
    groups = re.findall(r"replica_groups = dense<(.*?)>", text)
    assert kinds == ["reduce_scatter", "all_reduce", "all_reduce"]
    assert groups[-1] == "[[0, 4], [1, 5], [2, 6], [3, 7]]"  # between the slices


def test_parts(sharding_of):
    sharding = sharding_of(data=2, fsdp=2, tensor=2)
    assert {a: sharding.parts(a) for a in ("batch", "embed", "heads", "norm", "sequence")} == {
        "batch": 4, "embed": 2, "heads": 2, "norm": 1, "sequence": 1
    }


def test_arrays_lie_where_the_rules_say(sharding_of):
    sharding = sharding_of(fsdp=2, tensor=4)
    x = np.arange(8 * 12).reshape(8, 12)
    placed = jax.device_put(x, sharding.named(("embed", "mlp")))
    assert {shard.data.shape for shard in placed.addressable_shards} == {(4, 3)}
    assert jax.device_put(x, sharding.replicated()).is_fully_replicated
    np.testing.assert_array_equal(placed, x)


def test_constrain_pins_and_counts_dimensions(sharding_of):
    sharding = sharding_of(fsdp=2, tensor=4)
    y = jax.jit(lambda x: sharding.constrain(x, "embed", "mlp"))(np.ones((8, 12), np.float32))
    assert y.sharding.spec == P("fsdp", "tensor")
    with pytest.raises(ValueError, match="2 dimensions were given 1 axes"):
        sharding.constrain(np.ones((8, 12)), "embed")


@pytest.mark.parametrize(("size", "sizes"), [(6, "4 or 8"), (3, "4"), (9, "8 or 12")])
def test_check_batch(sharding_of, size, sizes):
    sharding = sharding_of(data=2, fsdp=2, tensor=2)
    check_batch(sharding, 8, "--config.data.global_batch_size")
    check_batch(sharding, 8, "--config.data.global_batch_size", 2)
    with pytest.raises(UserError, match=r"each of 3 microbatches.*size=12"):
        check_batch(sharding, 8, "--config.data.global_batch_size", 3)
    with pytest.raises(UserError) as caught:
        check_batch(sharding, size, "--config.data.global_batch_size")
    message = str(caught.value)
    assert f"data.global_batch_size={size} cannot be shared by 4 groups" in message
    assert message.endswith(f"Use --config.data.global_batch_size={sizes}.")


def test_rules_are_open_to_change(sharding_of):
    mesh = sharding_of(tensor=8).mesh
    assert Sharding(mesh, (("embed", ("tensor",)),)).spec(("embed",)) == P("tensor")


@pytest.mark.parametrize(("topology", "axes"), [
    ("v6e:4x4", {"fsdp": 8, "tensor": 2}), ("v6e:4x4", {}), ("v5p:4x4x4", {"fsdp": 8, "tensor": 8}),
    ("v5e:4x4", {"data": 2, "fsdp": 8}),
])
def test_axes_may_cut_the_sides_of_a_slice(topology, axes):
    """One order for a run and for a compile without devices, whatever the axes divide."""
    pytest.importorskip("libtpu")
    from jaxllm.plan.compile import devices_of
    from jaxllm.plan.slices import parse_slice

    devices = devices_of(parse_slice(topology))
    mesh = make_mesh(MeshConfig(**({"fsdp": -1} | axes)), devices)
    assert sorted(d.id for d in mesh.devices.flat) == sorted(d.id for d in devices)


def test_a_context_must_divide_the_rows(sharding_of):
    check_length(sharding_of(context=4, data=2), (128, 0))
    with pytest.raises(UserError, match=r"mesh\.context=4 does not divide .*127.*124 or 128"):
        check_length(sharding_of(context=4, data=2), (127, 0))
