"""Checkpoints come back bitwise, on any mesh, or are known to be damaged.

What is restored is compared with the arrays that were saved; damage is done to the files of a
step one at a time.
"""

import errno
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxllm.core.checkpoint import Checkpoints, describe
from jaxllm.core.errors import UserError


def state(offset=0.0):
    """Several dtypes and ranks, a named tuple's worth of nesting, sizes that eight divides."""
    key = jax.random.key(7)
    return {
        "step": jnp.int32(3),
        "finite": jnp.bool_(True),
        "params": {
            "kernel": jax.random.normal(key, (16, 24)) + offset,
            "scale": jax.random.normal(key, (8,), jnp.bfloat16),
        },
        "opt_state": ({"mu": jnp.linspace(0, 1, 40).reshape(8, 5) + offset}, jnp.float32(2.5)),
    }


def target_of(tree, sharding=None):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), tree
    )


def assert_equal(found, expected):
    def same(a, b):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()

    jax.tree.map(same, found, expected)


def save(directory, steps, keep=9, keep_best=0, losses=None):
    """Writes state(step) at each step; returns the steps that stay."""
    checkpoints = Checkpoints(directory, keep=keep, keep_best=keep_best)
    for step in steps:
        checkpoints.save(step, state(step), {"run": "x"}, (losses or {}).get(step))
    checkpoints.close()
    return Checkpoints(directory).steps()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with the steps 1 and 2."""
    directory = tmp_path_factory.mktemp("saved")
    save(directory, (1, 2))
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of `saved` to damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def newest(directory, **options):
    """(step restored or None, warnings); what was restored equals what was saved."""
    warnings = []
    checkpoints = Checkpoints(directory, **options)
    found = checkpoints.restore_newest(target_of(state()), warnings.append, lambda meta: None)
    checkpoints.close()
    if found is None:
        return None, warnings
    restored, meta = found
    assert_equal(restored, state(meta["step"]))
    return meta["step"], warnings


def test_round_trip(saved):
    checkpoints = Checkpoints(saved)
    assert checkpoints.steps() == [1, 2]
    assert_equal(checkpoints.restore(1, target_of(state())), state(1))
    assert checkpoints.read_meta(2)["run"] == "x"
    assert newest(saved) == (2, [])


def test_nothing_saved_yet(tmp_path):
    assert newest(tmp_path / "none", keep=1) == (None, [])
    assert Checkpoints(tmp_path / "absent").steps() == []
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("mesh", [{"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_restores_onto_another_mesh(saved, sharding_of, tmp_path, mesh):
    sharding = sharding_of(**mesh)
    target = target_of(state(), sharding.replicated())
    target["params"]["kernel"] = jax.ShapeDtypeStruct(
        (16, 24), jnp.float32, sharding=sharding.named(("embed", "mlp"))
    )
    restored = Checkpoints(saved).restore(2, target)
    kernel = restored["params"]["kernel"]
    assert kernel.sharding == sharding.named(("embed", "mlp")) and len(kernel.devices()) == 8
    assert_equal(restored, state(2))
    # and back, from shards to one device
    checkpoints = Checkpoints(tmp_path / "sharded", keep=1)
    checkpoints.save(2, restored, {}, None)
    checkpoints.close()
    assert newest(tmp_path / "sharded") == (2, [])


def test_a_part_can_be_restored(saved):
    target = {"params": target_of(state())["params"]}
    assert_equal(Checkpoints(saved).restore(1, target), {"params": state(1)["params"]})


def test_another_dtype_is_refused_or_cast(saved):
    target = target_of(state())
    like = target["params"]["kernel"]
    target["params"]["kernel"] = jax.ShapeDtypeStruct(
        like.shape, jnp.bfloat16, sharding=like.sharding
    )
    with pytest.raises(UserError, match=r"float32\[16, 24\], and the run wants bfloat16"):
        Checkpoints(saved).restore(1, target)
    kernel = Checkpoints(saved).restore(1, target, cast=True)["params"]["kernel"]
    np.testing.assert_array_equal(kernel, state(1)["params"]["kernel"].astype(jnp.bfloat16))


def test_a_failure_elsewhere_is_no_damage(saved, monkeypatch):
    """A network that is down must not cost the newest checkpoint."""

    def fails(*arguments, **options):
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    checkpoints = Checkpoints(saved, keep=2)
    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", fails)
    with pytest.raises(OSError, match="timed out"):
        checkpoints.restore_newest(target_of(state()), print, lambda meta: None)
    assert not list(saved.glob("*.damaged*"))


def test_another_shape_is_no_match(saved):
    target = target_of(state())
    target["params"]["kernel"] = jax.ShapeDtypeStruct(
        (16, 23), jnp.float32, sharding=target["step"].sharding
    )
    with pytest.raises(UserError, match=r"holds params\.kernel"):
        Checkpoints(saved).restore(1, target)


def test_keeps_the_newest_and_the_best(tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5}
    assert save(tmp_path, (1, 2, 3, 4), keep=2, keep_best=1, losses=losses) == [2, 3, 4]
    # the next process still knows which was best
    assert save(tmp_path, (5, 6, 7), keep=2, keep_best=1, losses={5: 1.5}) == [2, 6, 7]


def test_keeps_the_newest_alone(tmp_path):
    assert save(tmp_path, (1, 2, 3), keep=1) == [3]


def test_leftovers_of_a_kill_are_ignored(copy):
    leftover = copy / "3.orbax-checkpoint-tmp-17"
    shutil.copytree(copy / "2", leftover)
    assert newest(copy) == (2, [])
    assert leftover.exists()  # a reader removes nothing
    assert newest(copy, keep=2) == (2, [])
    save(copy, (4,), keep=2)
    assert not leftover.exists()  # cleared before a run writes


@pytest.mark.parametrize("keep", [0, 2])
def test_a_bare_step_directory_is_passed_over(copy, keep):
    (copy / "9").mkdir()
    step, warnings = newest(copy, keep=keep)
    assert step == 2 and len(warnings) == 1
    assert "step 9 is damaged: it was never completed" in warnings[0]
    assert (copy / "9").exists() == (keep == 0)  # a reader renames nothing
    assert (copy / "9.damaged").exists() == (keep > 0)


def largest(folder):
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


DAMAGED = {  # what a restore cannot do without
    "completion mark": lambda step: step / "_CHECKPOINT_METADATA",
    "meta": lambda step: step / "meta" / "metadata",
    "tree": lambda step: step / "state" / "_METADATA",
    "manifest": lambda step: step / "state" / "manifest.ocdbt",
    "index": lambda step: largest(step / "state" / "d"),
    "arrays": lambda step: largest(step / "state" / "ocdbt.process_0" / "d"),
}


def damage(file, how):
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        file.write_bytes(
            content[:middle] + bytes([content[middle] ^ 0x20]) + content[middle + 1:]
        )


@pytest.mark.filterwarnings("ignore")  # the storage layer's threads complain of what they find
@pytest.mark.parametrize(("part", "how"), [
    (part, how) for part in DAMAGED for how in ("missing", "empty", "truncated", "flipped")
    if part != "completion mark" or how == "missing"  # its content is not needed
])
def test_damage_is_detected_and_the_step_before_used(copy, part, how):
    damage(DAMAGED[part](copy / "2"), how)
    step, warnings = newest(copy)
    assert step == 1
    assert len(warnings) == 1 and "step 2 is damaged" in warnings[0]
    assert "before it is tried" in warnings[0] and "\n" not in warnings[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_any_file_damaged_anywhere_never_gives_wrong_numbers(copy, saved):
    for file in sorted(f.relative_to(saved) for f in (saved / "2").rglob("*") if f.is_file()):
        damage(copy / file, "flipped")
        assert newest(copy)[0] in (1, 2), file  # equal to what was saved: newest() compares
        shutil.copy(saved / file, copy / file)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", [0.1, 0.3, 0.6])
def test_a_flipped_byte_in_the_array_data(copy, place):
    file = DAMAGED["arrays"](copy / "2")
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)
    assert newest(copy)[0] == 1


def test_a_damaged_step_is_set_aside_and_written_again(copy):
    damage(copy / "2" / "meta" / "metadata", "truncated")
    (copy / "2.damaged").mkdir()  # from an accident before
    assert newest(copy, keep=2)[0] == 1
    assert (copy / "2.damaged2").exists()
    assert save(copy, (2,)) == [1, 2]
    assert newest(copy) == (2, [])


def test_every_checkpoint_damaged(copy):
    for step in ("1", "2"):
        damage(copy / step / "meta" / "metadata", "empty")
    for _ in range(2):  # nothing is renamed: else it would begin anew
        with pytest.raises(UserError, match=r"Every checkpoint in .* is damaged \(steps 1, 2\)"):
            newest(copy)


def test_a_refusal_is_no_damage(copy):
    def refuse(meta):
        raise UserError("another model")

    with pytest.raises(UserError, match="another model"):
        Checkpoints(copy, keep=2).restore_newest(target_of(state()), pytest.fail, refuse)
    assert newest(copy) == (2, [])


def test_an_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is in the way"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep=1)
    with pytest.raises(UserError, match="file is in the way"):  # not only at the first save
        Checkpoints(tmp_path / "file", keep=1)


def test_checksums_see_order_and_bits_not_sharding(sharding_of):
    x = jax.random.normal(jax.random.key(0), (16, 24))
    base = describe({"a": x})
    swapped = x.at[0, 0].set(x[0, 1]).at[0, 1].set(x[0, 0])
    assert describe({"a": swapped}) != base
    assert describe({"a": x.T}) != base
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    for bit in (0, 13, 31):
        flipped = bits.at[3, 5].set(bits[3, 5] ^ jnp.uint32(1 << bit))
        assert describe({"a": jax.lax.bitcast_convert_type(flipped, jnp.float32)}) != base
    for axes in (("embed", "mlp"), ("mlp", "embed"), (None, "batch"), ("batch", None)):
        placed = jax.device_put(x, sharding_of(fsdp=4, tensor=2).named(axes))
        assert describe({"a": placed}) == base


def test_checksums_are_named_by_path():
    assert set(describe(state())) == {
        "step", "finite", "params.kernel", "params.scale", "opt_state.0.mu", "opt_state.1"
    }
