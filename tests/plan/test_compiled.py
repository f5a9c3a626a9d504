"""The compiled step kept by `jaxllm check` and loaded by a run: the same step, or told why not."""

import dataclasses
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxllm.cli.main import main
from jaxllm.core.errors import UserError
from jaxllm.core.mesh import make_sharding
from jaxllm.plan.check import check
from jaxllm.plan.compile import compile_for, save_for
from jaxllm.plan.slices import parse_slice
from jaxllm.train import program
from jaxllm.train.compiled import (
    EXECUTABLE,
    FILE,
    compile_and_save,
    difference,
    fingerprint,
    load_or_compile,
    read,
)
from jaxllm.train.config import default_config, resolve_config
from jaxllm.train.feed import batch_shapes
from jaxllm.train.state import init_state

from .helpers import small_tpu_recipe

HITS = "/jax/compilation_cache/cache_hits"


def recipe():
    values = default_config()
    values.model.preset = "llama_debug"
    values.model.width, values.model.vocab_size, values.model.mlp.width = 32, 264, 48
    values.data.sequence_length, values.data.global_batch_size = 32, 8
    values.optimizer.learning_rate = 1e-2
    return values


def parts(values, devices=None):
    """What a step is compiled of, as `load_or_compile` takes it."""
    config = resolve_config(values)
    sharding = make_sharding(config.mesh, devices or jax.devices()[:1])
    setup = program.setup_of(config, config.model, sharding)
    size = config.data.global_batch_size
    lengths = (config.data.sequence_length, 0)
    batch = batch_shapes(program.example_batch(config.data, lengths), sharding, size)
    return config, setup, program.loss_options(config, config.model, 0), batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("compiled"))
    compile_and_save(folder, *parts(recipe()), seconds=3)
    return folder


def load(folder, values, devices=None):
    """The step, what is said, and how often jax's cache answered."""
    said, events = [], []
    jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
    try:
        step = load_or_compile(read(folder), *parts(values, devices), said.append)
    finally:
        jax.monitoring.clear_event_listeners()
    return step, said, events.count(HITS)


def test_the_loaded_step_is_the_compiled_one(folder):
    step, said, hits = load(folder, recipe())
    assert said == [f"compiled step loaded from {folder}"] and hits == 1
    config, setup, options, batch = parts(recipe())
    compiled = program.compile_step(
        config, setup, options, program.abstract_state(setup), batch
    )
    ids = np.random.default_rng(0).integers(0, 259, batch.inputs.shape)
    filled = jax.tree.map(lambda s: jax.device_put(ids.astype(s.dtype), s.sharding), batch)
    (ours, metrics), (theirs, expected) = (
        f(init_state(setup, 0), filled) for f in (step, compiled)
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, (ours, metrics), (theirs, expected)))
    assert int(ours.step) == 1 and np.isfinite(float(metrics["loss"]))


@pytest.mark.parametrize(("change", "words"), [
    ({"optimizer": {"learning_rate": 0.5}},
     "the recipe is another: optimizer.learning_rate was 0.01 and is 0.5"),
    ({"data": {"global_batch_size": 4}}, "data.global_batch_size was 8 and is 4"),
    ({"train": {"xla_options": ("xla_backend_optimization_level=1",)}},
     "the compiler's options were {} and are {'xla_backend_optimization_level': '1'}"),
])
def test_another_step_is_compiled_and_the_difference_told(folder, change, words):
    values = recipe()
    values.update(change)
    _, said, _ = load(folder, values)
    assert len(said) == 1 and "is not used" in said[0] and words in said[0], said


@pytest.mark.thorough
def test_another_device_is_told(folder):
    _, said, _ = load(folder, recipe(), jax.devices()[1:2])
    assert "devices in another order" in said[0]
    values = recipe()
    values.mesh.fsdp = 2
    _, said, _ = load(folder, values, jax.devices()[:2])
    assert "it is for 1 x cpu and here are 2 x cpu" in said[0]


def test_each_part_of_the_key_is_compared(folder):
    stored = read(folder)
    assert difference(stored, stored.key, stored.config) == ""
    for part in stored.key:
        other = {**stored.key, part: "something else"}
        assert difference(stored, other, stored.config), part
    older = dataclasses.replace(stored, key={**stored.key, "jax": "0.9.0"})
    assert difference(older, stored.key, stored.config) == (
        f"jax 0.9.0 compiled it and here is {jax.__version__}"
    )
    program = {**stored.key, "program": "0"}
    assert "the recipe is the same" in difference(stored, program, stored.config)
    paths = {**stored.config, "checkpoint.every": 1, "eval.batches": 99}
    assert "the recipe is the same" in difference(stored, program, paths)


def test_flags_are_part_of_the_key_but_for_those_that_change_no_step(folder, monkeypatch):
    launch = "--xla_tpu_use_enhanced_launch_barrier=true --xla_dump_to=/tmp/x"
    monkeypatch.setenv("LIBTPU_INIT_ARGS", launch)  # the first is what jax adds on a TPU
    assert "loaded" in load(folder, recipe())[1][0]
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_enable_latency_hiding_scheduler=true")
    said = load(folder, recipe())[1][0]
    assert "XLA_FLAGS and LIBTPU_INIT_ARGS were [" in said
    assert "'--xla_tpu_enable_latency_hiding_scheduler=true']" in said


def test_a_damaged_folder_is_compiled_around_or_refused(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / EXECUTABLE).write_bytes((copy / EXECUTABLE).read_bytes()[:-100])
    step, said, _ = load(str(copy), recipe())
    assert "its executable cannot be read" in said[0] and step
    (copy / EXECUTABLE).unlink()
    assert "cannot be read" in load(str(copy), recipe())[1][0]
    (copy / FILE).write_text("{}")
    with pytest.raises(UserError, match=r"compiled\.json is damaged.*jaxllm check --save-compiled"):
        read(str(copy))
    with pytest.raises(UserError, match=r"has no compiled\.json"):
        read(str(tmp_path / "nowhere"))


def test_bytes_that_jax_cannot_load_are_compiled_around(folder, monkeypatch):
    monkeypatch.setattr("jaxllm.train.compiled._executable", lambda stored: b"not a program")
    step, said, _ = load(folder, recipe())
    assert "its executable cannot be loaded (" in said[0] and step


@pytest.mark.parametrize("answers", [[False], [True, False]])
def test_all_hosts_load_or_none_does(folder, monkeypatch, answers):
    """The others' answers, made up here: to the key, and to loading."""
    monkeypatch.setattr(
        "jaxllm.train.compiled.on_all_hosts", lambda fine: fine and answers.pop(0)
    )
    step, said, _ = load(folder, recipe())
    assert "another host of this run could not use it" in said[0] and step


def test_the_fingerprint_sees_through_names_and_sharing():
    shared = """module @jit_step {
  func.func public @main(%0: f32) -> f32 {
    %1 = call @twice(%0) : f32
    %2 = call @twice(%1) : f32
  }
  func.func private @twice(%0: f32) -> f32 {
    %1 = call @one(%0) : f32
  }
  func.func private @one(%0: f32) -> f32 {
    %1 = add %0, %0
  }
}
"""
    copied = """module @jit_step {
  func.func public @main(%0: f32) -> f32 {
    %1 = call @twice(%0) : f32
    %2 = call @twice_1(%1) : f32
  }
  func.func private @one_7(%0: f32) -> f32 {
    %1 = add %0, %0
  }
  func.func private @twice(%0: f32) -> f32 {
    %1 = call @one_7(%0) : f32
  }
  func.func private @twice_1(%0: f32) -> f32 {
    %1 = call @one_9(%0) : f32
  }
  func.func private @one_9(%0: f32) -> f32 {
    %1 = add %0, %0
  }
}
"""
    assert fingerprint(shared) == fingerprint(copied)
    assert fingerprint(shared) != fingerprint(copied.replace("add", "subtract", 1))
    assert fingerprint(shared) != fingerprint(shared.replace("call @twice(%1)", "call @one(%1)"))
    assert fingerprint(shared) != fingerprint(shared + "\n{-# resources: 1 #-}")


def test_nocompile_leaves_nothing_to_save(capsys):
    flags = ["--config=configs/llama3_8b.py:v5p-8", "--nocompile", "--save-compiled=/tmp/x"]
    assert main(["check", *flags]) == 2
    assert "--save-compiled=/tmp/x needs the compile" in capsys.readouterr().err


RUN = """
import sys
import jax
from jaxllm.cli.main import main
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name == {hits!r}))
code = main(sys.argv[1:])
print("hits", sum(hits))
raise SystemExit(code)
"""


@pytest.mark.slow
def test_what_one_process_saves_a_run_in_another_loads(tmp_path, monkeypatch):
    """Through compile_for and save_for, as check does, and `jaxllm train`."""
    from tests.train.conftest import TEXT, make_recipe, prepare_text

    values = make_recipe(prepare_text(tmp_path / "corpus", TEXT))
    values.train.steps, values.eval.batches = 2, 1
    where, devices = parse_slice("v5e:1x1"), jax.devices()[:1]
    config = resolve_config(values)
    compiled = compile_for(config, where, devices)
    save_for(config, where, devices, str(tmp_path / "kept"), compiled)
    file = tmp_path / "recipe.py"
    file.write_text(
        "import json\nfrom jaxllm.train.config import default_config\n\n\ndef get_config():\n"
        "    config = default_config()\n"
        f"    config.update(json.loads({values.to_json()!r}))\n    return config\n"
    )
    monkeypatch.setenv("JAXLLM_CACHE", "")
    # with this process's other flags, which are in the step's key
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace("count=8", "count=1"))
    losses = {}
    for name, flags in {"plain": [], "loaded": [f"--compiled={tmp_path / 'kept'}"]}.items():
        done = subprocess.run(
            [sys.executable, "-c", RUN.format(hits=HITS), "train", f"--config={file}",
             f"--workdir={tmp_path / name}", *flags],
            capture_output=True, text=True, timeout=240, check=False,
        )
        assert done.returncode == 0, done.stderr
        assert (f"compiled step loaded from {tmp_path / 'kept'}" in done.stdout + done.stderr) == (
            name == "loaded"
        ), done.stdout + done.stderr
        assert f"hits {int(name == 'loaded')}" in done.stdout
        records = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = [r["loss"] for r in map(json.loads, records) if r["split"] == "train"]
    assert losses["loaded"] == losses["plain"] and len(losses["plain"]) == 2


SEARCH = """
import sys
from jaxllm.plan import check as checks
checks.prepare_environment()
from jaxllm.plan.compile import _step_of, devices_of
from jaxllm.train.compiled import load_or_compile, read
from jaxllm.train.config import default_config, resolve_config
{recipe}
where = checks.parse_slice("v5e:2x2")
config, *rest = _step_of(small_tpu_recipe(), where, devices_of(where))
load_or_compile(read(sys.argv[1]), config, *rest, lambda text: print("said:", text))
"""


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs the tpu extra")
def test_a_step_for_a_tpu_is_written_and_looked_up(tmp_path, monkeypatch):
    """Another process, with what jax sets on a TPU, finds it and gets as far as loading it.

    No further: a compiler without chips can load no program, and compiles.
    """
    kept = str(tmp_path / "kept")
    found = check(small_tpu_recipe(), "v5e:2x2", save_to=kept)
    assert found.passed, found.failures
    assert re.fullmatch(rf"\d+ MB in {kept}; jaxllm train --compiled={kept} loads it",
                        dict(found.facts)["compiled step"])
    stored = read(kept)
    assert stored.key["devices"] == "4 x TPU v5 lite" and "TPU v5" in stored.key["compiler"]
    assert sorted(place[1] for place in stored.key["places"]) == [
        [0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]
    ]
    executable = zlib.decompress((Path(kept) / EXECUTABLE).read_bytes())
    assert len(executable) > 100_000 and b"spmd-partition.*" not in executable
    monkeypatch.setenv("LIBTPU_INIT_ARGS", " --xla_tpu_use_enhanced_launch_barrier=true")
    done = subprocess.run(
        [sys.executable, "-c", SEARCH.format(recipe=inspect.getsource(small_tpu_recipe)), kept],
        capture_output=True, text=True, timeout=240, check=False,
    )
    assert re.search(r"said: .*its executable cannot be loaded \(.*PjRtCompiler", done.stdout), (
        done.stdout + done.stderr[-2000:]
    )
