"""Models with adapters from a base: what they compute, one step against plain references, shards.

The reference of a QLoRA step is the LoRA step on the dequantised matrices; of a sharded step the
same on one device; of a merged model the unmerged one.
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.models.adapters.adapter import linears_of
from jaxllm.models.adapters.config import AdapterConfig, LoraConfig
from jaxllm.models.adapters.start import start_params
from jaxllm.models.config import presets
from jaxllm.models.hf.importer import flatten_arrays, nested
from jaxllm.models.parameters import param_count
from jaxllm.models.tower import Inputs
from jaxllm.models.transformer import Transformer
from jaxllm.nn.compute import make_compute
from jaxllm.nn.config import HeadConfig
from jaxllm.nn.module import abstract, bind
from jaxllm.train.config import OptimizerConfig
from jaxllm.train.losses import LossOptions
from jaxllm.train.program import abstract_state
from jaxllm.train.state import make_setup, merged, parted
from jaxllm.train.step import jit_train_step

from ...golden.test_golden import batch

IDS = np.random.default_rng(0).integers(0, 64, (8, 12)).astype(np.int32)
EVERYWHERE = {"r": 4, "target_modules": ("all-linear",)}


def start(saved, config, compute, key=0):
    structure, specs = abstract(partial(Transformer, config=config, compute=compute))
    params = start_params(saved, structure, specs, jax.random.key(key), pytest.fail)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(
        lambda s: (s.shape, s.dtype), specs
    )
    return structure, specs, params


def inputs():
    return Inputs(IDS, np.broadcast_to(np.arange(12, dtype=np.int32), IDS.shape))


def hidden(structure, params, key=None):
    return jax.jit(lambda p: bind(structure, p).hidden(inputs(), key))(params)


def gradients(structure, specs, params, key=None):
    """The loss and its gradient for what trains, as a run's step takes them."""
    weight = jax.random.normal(jax.random.key(9), (*IDS.shape, 64))
    ours, frozen = parted(params, jax.tree.map(lambda spec: spec.trained, specs))

    @jax.jit
    def run(ours):
        def loss(ours):
            return jnp.sum(weight * bind(structure, merged(ours, frozen)).hidden(inputs(), key))

        return jax.value_and_grad(loss)(ours)

    value, found = run(ours)
    return value, flatten_arrays(found)


def moved(params, scale=0.05):
    """The parameters with second factors that are not zero."""
    flat = flatten_arrays(params)
    return nested({
        name: value + scale * jax.random.normal(jax.random.key(3), value.shape)
        if name.endswith("lora.b.kernel") else value for name, value in flat.items()
    })


@pytest.mark.parametrize("lora", [
    {"r": 4}, {"r": 4, "init_lora_weights": "gaussian", **EVERYWHERE},
    {"init_lora_weights": "pissa", **EVERYWHERE},
    pytest.param({"use_dora": True, **EVERYWHERE}, marks=pytest.mark.thorough),
    pytest.param(
        {"init_lora_weights": "pissa", "use_dora": True, **EVERYWHERE}, marks=pytest.mark.thorough
    ),
], ids=str)
def test_new_adapters_change_nothing(bases, model_of, compute, lora):
    base, _ = bases("llama")
    structure, _, params = start(base, model_of("llama", **lora), compute)
    model = base.load(compute, pytest.fail)
    np.testing.assert_allclose(
        hidden(structure, params), hidden(model.structure, model.params), atol=2e-4
    )


def test_initialisations(bases, model_of, compute):
    base, _ = bases("llama")
    first = "decoder.layers.layer.mlp.down.lora.a.kernel"
    for name, low, high in (("default", 0.068, 0.0722), ("gaussian", 0.5, 1.1)):
        config = model_of("llama", init_lora_weights=name, **EVERYWHERE)
        flat = flatten_arrays(start(base, config, compute)[2])
        assert not any(x.any() for n, x in flat.items() if n.endswith("lora.b.kernel"))
        if name == "default":  # uniform within 1 / √192
            assert low < float(jnp.abs(flat[first]).max()) < high
        else:  # a standard deviation of 1 / 4
            np.testing.assert_allclose(flat[first].std(), 0.25, rtol=0.05)
    one, other = (flatten_arrays(start(base, config, compute, key=k)[2]) for k in (0, 1))
    assert (one[first] != other[first]).any() and (one[first][0] != one[first][1]).any()


@pytest.mark.parametrize(("quantization", "extra"), [
    ("nf4", {}), pytest.param("int8", {"use_dora": True}, marks=pytest.mark.thorough),
    *(pytest.param(quantization, extra, marks=pytest.mark.slow) for quantization, extra in (
        ("nf4", {"use_dora": True}), ("nf4", {"init_lora_weights": "pissa"}), ("int8", {}),
        ("int8", {"init_lora_weights": "pissa"}),
    )),
], ids=str)
def test_the_quantised_step_is_that_of_the_dequantised_weights(
    bases, model_of, compute, quantization, extra
):
    base, _ = bases("llama")
    config = model_of("llama", quantization=quantization, **EVERYWHERE, **extra)
    structure, specs, params = start(base, config, compute)
    params = moved(params)
    packed, linears = flatten_arrays(params), linears_of(config, compute)
    plain_config = dataclasses.replace(
        config, adapter=dataclasses.replace(config.adapter, quantization="none")
    )
    plain_structure, plain_specs = abstract(
        partial(Transformer, config=plain_config, compute=compute)
    )
    flat = {}
    for name in flatten_arrays(jax.tree.map(lambda s: 0, plain_specs)):
        path = name.removesuffix(".kernel")
        if name in packed:
            flat[name] = packed[name]
        else:
            arrays = {n: packed[f"{name}.{n}"] for n in linears.found[path].kernel.names}
            unpack = partial(linears.packing(path).unpack, dtype=jnp.float32)
            flat[name] = jax.vmap(unpack)(arrays)
    value, found = gradients(structure, specs, params)
    wanted_value, wanted = gradients(plain_structure, plain_specs, nested(flat))
    np.testing.assert_allclose(value, wanted_value, rtol=1e-4)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        scale = float(jnp.abs(wanted[name]).max()) + 1e-6
        np.testing.assert_allclose(gradient / scale, wanted[name] / scale, atol=1e-4, err_msg=name)


MESHES = [
    pytest.param({"fsdp": 4, "tensor": 2}, "nf4", marks=pytest.mark.thorough),
    *(pytest.param(mesh, quantization, marks=pytest.mark.slow) for mesh, quantization in (
        ({"stage": 2, "fsdp": 2, "data": 2}, "nf4"), ({"fsdp": 8}, "none"), ({"fsdp": 8}, "nf4"),
        ({"fsdp": 2, "tensor": 2, "data": 2}, "int8"), ({"stage": 2, "fsdp": 4}, "none"),
    )),
]


@pytest.mark.parametrize(("mesh", "quantization"), MESHES, ids=str)
def test_sharded_equals_unsharded(bases, model_of, compute, sharding_of, mesh, quantization):
    base, _ = bases("llama")
    config = model_of(
        "llama", quantization=quantization, use_dora=True, modules_to_save=("embed_tokens",), r=4,
        target_modules=("attention.query", "mlp.down"),
    )
    structure, specs, params = start(base, config, compute)
    params = moved(params)
    value, wanted = gradients(structure, specs, params)
    there = make_compute(sharding_of(**mesh), remat="full")
    structure, specs, sharded = start(base, config, there)
    flat = flatten_arrays(params)
    sharded = nested({
        name: jax.device_put(flat[name], array.sharding)
        for name, array in flatten_arrays(sharded).items()
    })
    found_value, found = gradients(structure, specs, sharded)
    np.testing.assert_allclose(found_value, value, rtol=1e-4)
    for name, gradient in found.items():
        scale = float(jnp.abs(wanted[name]).max()) + 1e-6
        np.testing.assert_allclose(gradient / scale, wanted[name] / scale, atol=1e-4, err_msg=name)


@pytest.mark.thorough
def test_started_in_shards_is_what_it_is_on_one_device(bases, model_of, compute, sharding_of):
    base, _ = bases("llama")
    config = model_of("llama", quantization="nf4", use_dora=True, **EVERYWHERE)
    one = flatten_arrays(start(base, config, compute)[2])
    there = make_compute(sharding_of(fsdp=2, tensor=2, stage=2))
    many = flatten_arrays(start(base, config, there)[2])
    codes = many["decoder.layers.layer.attention.query.kernel.codes"]
    assert codes.addressable_shards[0].data.shape == (1, 16, 2, 16)
    for name, value in one.items():
        if ".kernel." in name and "lora" not in name:
            # codes are the same; what is summed over devices is so up to rounding
            np.testing.assert_allclose(value, many[name], rtol=1e-5, err_msg=name)


@pytest.mark.thorough
def test_dropout_is_the_adapters_alone_and_a_function_of_the_key(bases, model_of, compute):
    base, _ = bases("llama")
    config = model_of("llama", lora_dropout=0.5, **EVERYWHERE)
    structure, _, params = start(base, config, compute)
    key, other = jax.random.key(5), jax.random.key(6)
    plain = hidden(structure, params)
    np.testing.assert_array_equal(hidden(structure, params, key), plain)  # b is zero
    params = moved(params)
    plain, one, two = (hidden(structure, params, k) for k in (None, key, other))
    assert (one != two).any() and (one != plain).any()
    np.testing.assert_array_equal(one, hidden(structure, params, key))


def test_a_base_in_bfloat16_is_held_in_it_and_computes_the_same(bases, model_of):
    base, _ = bases("llama")
    wide = make_compute(dtype="bfloat16")
    config = model_of("llama", r=4)
    structure, _, params = start(base, config, wide)
    layer = params["decoder"]["layers"]["layer"]
    assert layer["mlp"]["up"]["kernel"].dtype == params["embedding"]["table"].dtype == jnp.bfloat16
    assert layer["attention"]["query"]["lora"]["a"]["kernel"].dtype == jnp.float32
    assert layer["mlp_norm"]["scale"].dtype == jnp.float32
    model = base.load(wide, pytest.fail)
    np.testing.assert_array_equal(
        hidden(structure, params), hidden(model.structure, model.params)
    )


def test_a_new_head_is_drawn_and_the_bases_is_left(bases, model_of, compute):
    base, _ = bases("bert")
    head = HeadConfig("sequence_classification", labels=3, pooling="first", dense=True)
    _, _, params = start(base, model_of("bert", r=4, head=head), compute)
    assert params["head"]["output"]["kernel"].shape == (64, 3)
    theirs = base.load(compute, pytest.fail).params["head"]["dense"]["kernel"]
    assert (params["head"]["dense"]["kernel"] != theirs).any()


def test_a_base_of_other_sizes_is_refused(bases, model_of, compute):
    base, _ = bases("llama")
    config = dataclasses.replace(model_of("llama", r=4), vocab_size=80)
    with pytest.raises(UserError, match=r"embedding\.table has shape \[80, 64\] here and sha"):
        start(base, config, compute)
    config = dataclasses.replace(model_of("llama", r=4), tied=True)
    with pytest.raises(UserError, match=r"has a parameter head\.output\.kernel that the model"):
        start(base, config, compute)


def bytes_of(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def test_memory_of_llama_31_8b():
    """Optimizer state under 1 % of full tuning's; the quantised matrices within 4.13 bits."""
    compute = make_compute(dtype="bfloat16")
    full = presets()["llama3.1_8b"].completed()
    setups = {}
    for name in ("full", "nf4"):
        config = full
        if name == "nf4":
            lora = LoraConfig(r=16, target_modules=("all-linear",))
            config = dataclasses.replace(
                full, adapter=AdapterConfig("lora", lora=lora, quantization="nf4")
            )
        setups[name] = make_setup(config, compute, OptimizerConfig(warmup_steps=0), 10)
    states = {name: bytes_of(setup.shapes.opt_state) for name, setup in setups.items()}
    assert states["nf4"] < 0.01 * states["full"]
    frozen = flatten_arrays(setups["nf4"].shapes.frozen)
    packed = {n: x for n, x in frozen.items() if ".kernel." in n}
    plain = flatten_arrays(setups["full"].shapes.params)
    entries = sum(plain[n].size for n in {f"{n.partition('.kernel.')[0]}.kernel" for n in packed})
    assert entries > 6.9e9
    bits = 8 * bytes_of(packed) / entries
    assert 4.1 < bits <= 4.13
    assert param_count(setups["nf4"].specs) - param_count(setups["full"].specs) == sum(
        x.size for x in jax.tree.leaves(setups["nf4"].shapes.params)
    )
    assert bytes_of(setups["nf4"].shapes.whole()) < 6e9


@pytest.mark.thorough
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_the_compiled_step_holds_no_unpacked_copy_of_the_base(model_of, quantization):
    """The compiler's own figures: what it is given is the packed base, what it adds is less than
    the matrices of one layer more for each layer."""
    def compiled(layers):
        config = model_of("llama")
        mlp = dataclasses.replace(config.mlp, width=2048)  # wide, beside what a layer keeps else
        adapter = AdapterConfig(
            "lora", lora=LoraConfig(**EVERYWHERE), quantization=quantization
        )
        config = dataclasses.replace(
            config, layers=layers, width=256, mlp=mlp, adapter=adapter
        ).completed()
        compute = make_compute(dtype="bfloat16", remat="full", unroll=1)
        setup = make_setup(config, compute, OptimizerConfig(warmup_steps=0), 10)
        state = abstract_state(setup)
        step = jit_train_step(setup, LossOptions(), 1, 0)
        memory = step.lower(state, batch(0)).compile().memory_analysis()
        return memory, bytes_of(state), config

    few, held, _ = compiled(2)
    many, more, config = compiled(10)
    assert few.argument_size_in_bytes == pytest.approx(held, rel=0.02)
    assert many.argument_size_in_bytes == pytest.approx(more, rel=0.02)
    whole = linears_of(dataclasses.replace(config, adapter=AdapterConfig()), make_compute()).specs
    layer = sum(
        math.prod(spec.shape[1:]) * 2 for name, spec in whole.items()
        if ".layers." in name and name.endswith(".kernel")
    )
    grown = (many.temp_size_in_bytes - few.temp_size_in_bytes) / 8
    assert grown < layer / 4
