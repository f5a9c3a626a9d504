"""The parts under `convert`: files, copies, streams, and building straight onto a mesh."""

import dataclasses
import math

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxllm.core.checkpoint import Checkpoints, Damaged, describe
from jaxllm.core.errors import UserError
from jaxllm.core.streaming import Streamed, blocks, part_shape, read_streamed, save_streamed
from jaxllm.models.hf.copy import all_finite, copy_cast, empty
from jaxllm.models.hf.exporter import write_config
from jaxllm.models.hf.family import family
from jaxllm.models.hf.mapping import flatten, tensors
from jaxllm.models.hf.safetensors import INDEX, SINGLE, Tensors, Writer
from jaxllm.models.load import SavedFolder, find_model
from jaxllm.nn.compute import make_compute

BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)


def test_copies_are_those_of_numpy_in_every_order_and_dtype():
    rng = np.random.default_rng(0)
    for _ in range(100):
        sizes, order = rng.integers(1, 300 // 2, 3), rng.permutation(3)
        source = rng.normal(size=sizes[order]).astype(F32).transpose(np.argsort(order))
        source = source[rng.integers(0, 2) :, ::2, rng.integers(0, 2) :]
        one, other = rng.choice(np.array([F32, BF16], object), 2)
        source = source.astype(one, order="K")
        target = empty(source.shape, other)
        copy_cast(target, source)
        assert target.tobytes() == source.astype(other).tobytes()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, BF16])
def test_one_value_that_is_not_finite_is_found(dtype):
    array = np.linspace(-3e4, 3e4, 60).reshape(5, 12).astype(dtype)
    assert all_finite(array) and all_finite(array[:0]) and all_finite(array[0, 0:1].reshape(()))
    for bad in (np.nan, np.inf, -np.inf):
        array[3, 7] = bad
        assert not all_finite(array) and not all_finite(array.T[::7])
        assert all_finite(array[:3])


def test_bfloat16_comes_back_bit_for_bit_through_float32():
    bits = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    bits = bits[(bits & 0x7FFF) <= 0x7F80].reshape(-1, 2)  # NaNs have many spellings
    wide = empty(bits.T.shape, F32)
    copy_cast(wide, bits.view(BF16).T)
    narrow = empty(bits.shape, BF16)
    copy_cast(narrow, wide.T)
    np.testing.assert_array_equal(narrow.view(np.uint16), bits)
    np.testing.assert_array_equal(wide.T.view(np.uint32), bits.astype(np.uint32) << 16)


def test_arrays_begin_where_xla_wants_them():
    for shape in ((1,), (3, 5), (1 << 20,)):
        assert empty(shape, F32).__array_interface__["data"][0] % 64 == 0


@pytest.mark.parametrize("shard_bytes", [10**9, 100])
def test_written_files_are_read_by_safetensors_and_by_us(tmp_path, shard_bytes):
    rng = np.random.default_rng(0)
    given = {
        "a": rng.normal(size=(3, 7)).astype(F32), "b": rng.normal(size=(5,)).astype(BF16),
        "c": rng.normal(size=(2, 3, 4)).astype(F32),
    }
    writer = Writer(tmp_path, {n: (a.shape, a.dtype) for n, a in given.items()}, shard_bytes)
    for name, array in given.items():
        writer[name][...] = array
    writer.release()
    writer.sync()
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (tmp_path / INDEX).exists() == (len(files) > 1) == (shard_bytes == 100)
    theirs = {name: array for file in files for name, array in load_file(file).items()}
    ours = Tensors(tmp_path)
    assert given.keys() == theirs.keys() == set(ours)
    for name, array in given.items():
        assert theirs[name].tobytes() == ours[name].tobytes() == array.tobytes()
        ours.fetch(ours[name])
    ours.forget()
    assert ours["a"][1, 2] == given["a"][1, 2]


@pytest.mark.parametrize("shape", [(7,), (5, 3, 11), (2, 40, 3), (1, 1), (64, 1, 2)])
@pytest.mark.parametrize("most", [1, 12, 100, 10**6])
def test_blocks_cover_an_array_once_in_order(shape, most):
    part = part_shape(shape, 4, most)
    assert math.prod(part) * 4 <= max(most, 4)
    seen = np.concatenate([
        np.arange(math.prod(shape)).reshape(shape)[index].ravel() for index in blocks(shape, part)
    ])
    np.testing.assert_array_equal(seen, np.arange(math.prod(shape)))


def test_streamed_checkpoints_are_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxllm.core.streaming.PART_BYTES", 64)
    monkeypatch.setattr(part_shape, "__defaults__", (64,))
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(size=(3, 5, 7)).astype(BF16), "b": rng.normal(size=9).astype(F32)}
    state = {"params": {n: Streamed(a.shape, a.dtype, a.__getitem__) for n, a in arrays.items()}}
    save_streamed(tmp_path, 0, state, {"model": 1})
    checkpoints = Checkpoints(tmp_path)
    meta = checkpoints.read_meta(0)
    assert meta["arrays"] == describe({"params": {n: jax.numpy.asarray(a)
                                                 for n, a in arrays.items()}})
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = {n: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)
              for n, a in arrays.items()}
    restored = checkpoints.restore(0, {"params": target})["params"]
    for name, array in arrays.items():
        assert np.asarray(restored[name]).tobytes() == array.tobytes()
        again = np.zeros_like(array)
        for index, block in read_streamed(tmp_path, 0, meta, f"params.{name}"):
            again[index] = block
        assert again.tobytes() == array.tobytes()
    meta["arrays"]["params.b"][2] ^= 1
    with pytest.raises(Damaged, match=r"params\.b differs"):
        list(read_streamed(tmp_path, 0, meta, "params.b"))


def test_what_a_run_saved_in_shards_is_read_in_blocks(tmp_path, sharding_of):
    named = sharding_of(fsdp=4, tensor=2).named
    array = np.random.default_rng(0).normal(size=(3, 8, 6)).astype(F32)
    sharded = jax.device_put(array, named((None, "embed", "mlp")))
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, {"w": sharded}, {}, None)
    checkpoints.wait()
    again, count = np.zeros_like(array), 0
    for index, block in read_streamed(tmp_path, 1, checkpoints.read_meta(1), "w"):
        again[index], count = block, count + 1
    assert count == 8
    np.testing.assert_array_equal(again, array)
    checkpoints.close()


@pytest.fixture
def folder(tmp_path, tiny, compute):
    from functools import partial

    from jaxllm.models.transformer import Transformer
    from jaxllm.nn.module import abstract

    config = tiny["llama"]
    _, specs = abstract(partial(Transformer, config=config, compute=compute))
    rng = np.random.default_rng(0)
    save_file({
        tensor.name: rng.normal(size=tensor.shape).astype(BF16)
        for tensor in tensors(family("llama").names(config), specs)
    }, tmp_path / SINGLE)
    write_config(tmp_path, config, BF16, {}, None)
    return tmp_path


def test_a_mesh_gets_its_shards(folder, compute, sharding_of):
    saved = find_model(str(folder))
    assert isinstance(saved, SavedFolder) and saved.run is None
    whole = saved.load(compute, pytest.fail).params
    sharded = saved.load(make_compute(sharding_of(fsdp=4, tensor=2)), pytest.fail).params
    kernel = sharded["decoder"]["layers"]["layer"]["mlp"]["up"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 8, 20)}

    def check(one, parts):
        for shard in parts.addressable_shards:
            np.testing.assert_array_equal(np.asarray(one)[shard.index], np.asarray(shard.data))

    jax.tree.map(check, whole, sharded)


def test_a_host_reads_its_slices_only(folder, compute, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    from jaxllm.models.hf.importer import Source

    saved = find_model(str(folder))
    from functools import partial

    from jaxllm.models.transformer import Transformer
    from jaxllm.nn.module import abstract

    _, specs = abstract(partial(Transformer, config=saved.config, compute=compute))
    read = []
    monkeypatch.setattr(
        Tensors, "fetch",
        lambda self, view: read.append(np.subtract(*np.lib.array_utils.byte_bounds(view)[::-1])),
    )
    source = Source(saved.folder, saved.config, specs)
    shape = flatten(specs)["decoder.layers.layer.mlp.up.kernel"].shape  # theirs: [outputs, inputs]
    with ThreadPoolExecutor(2) as pool:
        half = slice(0, shape[2] // 2)
        index = (slice(0, 1), slice(0, shape[1]), half)
        source.build("decoder.layers.layer.mlp.up.kernel", index, F32, pool)
        assert read == [shape[1] * shape[2] // 2 * 2]  # of one layer the half of the rows
        read.clear()
        table = slice(0, 12), slice(0, 32)
        source.build("embedding.table", table, F32, pool)
        assert sum(read) == 12 * 32 * 2


def test_mixed_dtypes_keep_what_they_hold(folder, compute, tmp_path):
    from jaxllm.core.display import make_display
    from jaxllm.models.convert import convert

    given = load_file(folder / SINGLE)
    norm = next(name for name in given if name.endswith("layers.0.input_layernorm.weight"))
    given[norm] = given[norm].astype(F32) + np.float32(1e-6)
    given["model.norm.weight"] = given["model.norm.weight"].astype(F32)
    save_file(given, folder / SINGLE)
    with make_display() as display:
        convert(str(folder), str(tmp_path / "run"), display)
        convert(str(tmp_path / "run"), str(tmp_path / "again"), display, check=False)
    again = load_file(tmp_path / "again" / SINGLE)
    for name, array in given.items():
        np.testing.assert_array_equal(again[name].astype(F32), array.astype(F32))
    assert again["model.norm.weight"].dtype == F32 and again["lm_head.weight"].dtype == BF16


def test_a_changed_model_gets_a_config_of_its_own(folder, tiny):
    theirs = (folder / "config.json").read_bytes()
    same = folder / "same"
    write_config_to(same, tiny["llama"], BF16, theirs)
    assert (same / "config.json").read_bytes() == theirs
    changed = folder / "changed"
    config = dataclasses.replace(
        tiny["llama"], positions=dataclasses.replace(tiny["llama"].positions, theta=3.0)
    )
    write_config_to(changed, config, F32, theirs.replace(b"{", b'{"use_cache": false,', 1))
    text = (changed / "config.json").read_text()
    assert '"rope_theta": 3.0' in text and '"use_cache": false' in text
    assert '"dtype": "float32"' in text


def write_config_to(folder, config, dtype, theirs):
    folder.mkdir()
    write_config(folder, config, dtype, {"config.json": theirs}, None)


def test_a_folder_in_a_bucket_is_to_be_copied_first():
    with pytest.raises(UserError, match="Copy it first"):
        Tensors("gs://bucket/llama")
