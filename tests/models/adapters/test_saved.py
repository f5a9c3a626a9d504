"""Runs that hold what they trained and read the rest from their base; several adapters on one."""

import dataclasses
import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.models.adapters.adapter import linears_of
from jaxllm.models.adapters.config import AdapterConfig
from jaxllm.models.adapters.start import start_params
from jaxllm.models.convert import convert
from jaxllm.models.hf.importer import flatten_arrays, nested
from jaxllm.models.load import find_model
from jaxllm.models.tower import Inputs
from jaxllm.models.transformer import Transformer
from jaxllm.nn.module import abstract
from jaxllm.train.state import parted

IDS = np.random.default_rng(0).integers(0, 64, (2, 12)).astype(np.int32)


def hidden(model):
    inputs = Inputs(IDS, np.broadcast_to(np.arange(12, dtype=np.int32), IDS.shape))
    return np.asarray(jax.jit(lambda p: model.bind(p).hidden(inputs))(model.params))


def load(name, compute):
    return find_model(str(name)).load(compute, pytest.fail)


def trained_of(base, config, compute, seed=0):
    """What a run on this base might have trained: new adapters moved in every direction."""
    structure, specs = abstract(partial(Transformer, config=config, compute=compute))
    params = start_params(base, structure, specs, jax.random.key(seed), pytest.fail)
    ours, _ = parted(params, jax.tree.map(lambda spec: spec.trained, specs))
    keys = iter(jax.random.split(jax.random.key(seed), 100))
    return {
        name: value if name.endswith("start")
        else value + jax.random.normal(next(keys), value.shape) / 20
        for name, value in flatten_arrays(ours).items()
    }


@pytest.fixture
def run_on(write_run, compute, tmp_path):
    """`run_on(base, config, "name", seed)`: a run that trained an adapter on this base."""
    def write(base, config, name, seed=0, **trained):
        leaves = trained or trained_of(base, config, compute, seed)
        write_run(
            tmp_path / name, config, nested(leaves), init_from=base.name,
            meta={"base": base.fingerprint},
        )
        return find_model(str(tmp_path / name)), leaves

    return write


@pytest.mark.parametrize(("quantization", "lora"), [
    pytest.param("nf4", {"r": 4, "use_dora": True}, marks=pytest.mark.thorough),
    ("none", {"r": 4, "modules_to_save": ("lm_head",), "init_lora_weights": "pissa"}),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("none", {"r": 4}),
        ("int8", {"r": 4, "init_lora_weights": "pissa", "target_modules": ("all-linear",)}),
    )),
], ids=str)
def test_a_run_holds_what_it_trained_and_merges_into_the_same(
    bases, model_of, run_on, compute, tmp_path, quantization, lora
):
    base, _ = bases("llama")
    config = model_of("llama", quantization=quantization, **lora)
    run, leaves = run_on(base, config, "run")
    meta = run.newest()[1]
    assert set(meta["arrays"]) == {f"params.{name}" for name in leaves}
    model = run.load(compute, pytest.fail)
    assert (model.step, model.config) == (3, config)
    flat = flatten_arrays(model.params)
    for name, value in leaves.items():
        np.testing.assert_array_equal(flat[name], value)
    with make_display() as display:
        parity = convert(str(run.name), str(tmp_path / "merged"), display, merge=True)
    assert parity["reimported"] < 1e-4 and parity["transformers"] < 1e-4
    merged = load(tmp_path / "merged", compute)
    np.testing.assert_allclose(hidden(merged), hidden(model), atol=2e-4)
    assert np.abs(hidden(merged) - hidden(base.load(compute, pytest.fail))).max() > 1e-2
    if quantization == "none":
        named = load(f"{base.name}+{run.name}", compute)
        np.testing.assert_allclose(hidden(named), hidden(model), atol=2e-4)


@pytest.mark.thorough
def test_adapters_add_up_by_weight(bases, model_of, run_on, compute):
    base, folder = bases("llama")
    one, _ = run_on(base, model_of("llama", r=4, use_dora=True), "one", 1)
    two, _ = run_on(base, model_of("llama", r=2, target_modules=("q_proj", "up_proj")), "two", 2)
    names = [base.name, f"{base.name}+{one.name}", f"{base.name}+{two.name}:1",
             f"{base.name}+{one.name}:0.25+{two.name}:-2"]
    plain, first, second, both = (flatten_arrays(load(n, compute).params) for n in names)
    for name, value in both.items():
        expected = plain[name] + 0.25 * (first[name] - plain[name]) - 2 * (
            second[name] - plain[name])
        np.testing.assert_allclose(value, expected, atol=1e-5, err_msg=name)
    found = [find_model(name).fingerprint for name in names]
    assert len({*found, folder.fingerprint}) == 5


@pytest.mark.thorough
def test_a_run_goes_on_with_its_own_adapter_and_merges_another(
    bases, model_of, run_on, compute
):
    base, _ = bases("llama")
    config = model_of("llama", r=4, init_lora_weights="pissa")
    run, leaves = run_on(base, config, "run")
    again = trained_of(run, config, compute)  # moved from where the run ended
    start = {n: v for n, v in again.items() if n.endswith("start")}
    for name, value in start.items():
        np.testing.assert_array_equal(value, leaves[name])
    second, _ = run_on(run, config, "second", **again)
    assert hidden(second.load(compute, pytest.fail)).shape
    other = model_of("llama", r=2)
    third, _ = run_on(run, other, "third", **trained_of(run, other, compute))
    fresh = dict(flatten_arrays(third.load(compute, pytest.fail).params))
    merged = run.leaves(compute, pytest.fail)
    name = "decoder.layers.layer.attention.query.kernel"
    np.testing.assert_allclose(
        fresh[name], merged.read(name, jnp.float32, compute.sharding.replicated()), atol=1e-6
    )


def test_frozen_parameters_come_from_the_base(bases, model_of, write_run, compute, tmp_path):
    base, _ = bases("llama")
    config = dataclasses.replace(
        model_of("llama"), adapter=AdapterConfig(freeze=(r"decoder\..*",))
    )
    params = flatten_arrays(base.load(compute, pytest.fail).params)
    ours = {n: v + 1 for n, v in params.items() if not n.startswith("decoder.")}
    write_run(tmp_path / "run", config, nested(ours), init_from=base.name,
              meta={"base": base.fingerprint})
    found = flatten_arrays(load(tmp_path / "run", compute).params)
    for name, value in found.items():
        np.testing.assert_array_equal(value, ours.get(name, params[name]))
    with make_display() as display:
        convert(str(tmp_path / "run"), str(tmp_path / "hf"), display, check=False)
    again = flatten_arrays(load(tmp_path / "hf", compute).params)
    for name, value in again.items():
        np.testing.assert_array_equal(value, found[name])


def test_another_base_is_refused(bases, model_of, run_on, write_run, compute, tmp_path):
    base, folder = bases("llama")
    run, _ = run_on(base, model_of("llama", r=4), "run")
    with pytest.raises(UserError, match=r"was trained on another base than .*_hf"):
        load(f"{folder.name}+{run.name}", compute)
    params = base.load(compute, pytest.fail).params
    params["embedding"]["table"] = params["embedding"]["table"].at[3, 5].add(1e-6)
    other = write_run(tmp_path / "other", model_of("llama"), params)
    with pytest.raises(UserError, match="was trained on another base than"):
        load(f"{other.root}+{run.name}", compute)
    config = model_of("llama")
    write_run(tmp_path / "moved", config, base.load(compute, pytest.fail).params, step=3)
    write_run(tmp_path / "moved", config, params, step=5)  # the base was trained on
    with pytest.raises(UserError, match=rf"Write {tmp_path / 'moved'}@3\+{run.name}\."):
        load(f"{tmp_path / 'moved'}+{run.name}", compute)
    with pytest.raises(UserError, match="is no adapter"):
        load(f"{base.name}+{folder.name}", compute)
    config = json.loads(run.run.config.read_text())
    config["config"]["train"]["init_from"] = "gone/away"
    run.run.config.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"not its base, train\.init_from='gone/away': .*no gone"):
        load(run.name, compute)


def test_between_a_base_and_what_was_tuned_whole(bases, model_of, write_run, compute, tmp_path):
    """WiSE-FT: (1 - w) base + w tuned; two runs add up."""
    base, _ = bases("llama")
    before = flatten_arrays(base.load(compute, pytest.fail).params)
    moved = []
    for number in range(2):
        keys = iter(jax.random.split(jax.random.key(number), 100))
        moved.append({n: x + jax.random.normal(next(keys), x.shape) for n, x in before.items()})
        write_run(tmp_path / f"run{number}", model_of("llama"), nested(moved[-1]))
    names = [str(tmp_path / f"run{number}") for number in range(2)]
    half = flatten_arrays(load(f"{base.name}+{names[0]}:0.25", compute).params)
    both = flatten_arrays(load(f"{base.name}+{names[0]}:0.5+{names[1]}", compute).params)
    for name, x in before.items():
        np.testing.assert_allclose(half[name], 0.75 * x + 0.25 * moved[0][name], atol=1e-5)
        expected = 0.5 * (moved[0][name] - x) + moved[1][name]
        np.testing.assert_allclose(both[name], expected, atol=1e-5)


def test_a_fingerprint_sees_one_element(bases, tmp_path):
    _, folder = bases("llama")
    copy = shutil.copytree(folder.folder, tmp_path / "copy")
    assert find_model(str(copy)).fingerprint == folder.fingerprint
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + np.float32(1e-6)
    save_file(tensors, copy / "model.safetensors")
    assert find_model(str(copy)).fingerprint != folder.fingerprint


def test_merge_without_an_adapter_is_refused(bases, tmp_path):
    base, _ = bases("llama")
    with make_display() as display, pytest.raises(UserError, match=r"--merge: .* has no adapter"):
        convert(base.name, str(tmp_path / "out"), display, merge=True)


def test_linears_know_their_scales(model_of, compute):
    linears = linears_of(model_of("llama", r=4, lora_alpha=6.0, use_rslora=True), compute)
    assert linears.scale("decoder.layers.layer.attention.query") == 3.0
