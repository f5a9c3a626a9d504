"""Runs as a whole: what they write, how they resume, what they refuse."""

import io
import json
import shutil

import jax
import numpy as np
import pytest

from jaxllm.core.checkpoint import Checkpoints
from jaxllm.core.config import difference
from jaxllm.core.display import make_display
from jaxllm.core.errors import Interrupted, UserError
from jaxllm.core.lock import Lock
from jaxllm.core.rundir import read_metrics
from jaxllm.models.load import find_model
from jaxllm.train import loop
from jaxllm.train.config import default_config, resolve_config
from jaxllm.train.parts import Parts
from tests.train.conftest import TEXT, make_recipe, prepare_text

KEPT = ("config.json", "metrics.jsonl")
TIMES = {
    "step_seconds", "tokens_per_second", "tokens_per_second_per_device", "mfu",
    "data_wait_seconds", "peak_memory_bytes",
}


def run(recipe, workdir, evaluators=(), base=None):
    """Trains; gives what was shown on stderr."""
    shown = io.StringIO()
    loop.train(
        resolve_config(recipe, base), difference(recipe, default_config()), str(workdir),
        make_display(shown), lambda splits: evaluators,
    )
    return shown.getvalue()


def facts(workdir):
    """The metrics without what the clock decides."""
    return [
        {k: v for k, v in record.items() if k not in TIMES}
        for record in read_metrics(workdir / "metrics.jsonl") if record["split"] != "time"
    ]


def checksums(workdir, step):
    checkpoints = Checkpoints(workdir / "checkpoints")
    return checkpoints.read_meta(step)["arrays"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, module_recipe):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, run(module_recipe, workdir)


@pytest.fixture(scope="module")
def module_recipe(corpus):
    config = make_recipe(corpus)
    config.checkpoint.every = 3
    config.train.eval_every = 4
    return config


def test_a_run_directory_has_what_the_contract_names(finished):
    workdir, shown = finished
    names = {p.name for p in workdir.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "checkpoints", "tokenizer", "tensorboard"}
    config = json.loads((workdir / "config.json").read_text())
    assert config["difference"]["train.steps"] == 8
    assert config["config"]["model"]["vocab_size"] == 264
    train = [r for r in read_metrics(workdir / "metrics.jsonl") if r["split"] == "train"]
    assert [r["step"] for r in train] == list(range(1, 9))
    for record in train:
        assert {"loss", "perplexity", "grad_norm", "learning_rate", "tokens", *TIMES} < set(record)
        assert record["perplexity"] == pytest.approx(np.exp(record["loss"]))
        assert record["tokens_per_second"] > 0
        assert record["mfu"] is None or 0 < record["mfu"] <= 1
    assert train[-1]["loss"] < train[0]["loss"]
    validation = [r for r in read_metrics(workdir / "metrics.jsonl") if r["split"] == "validation"]
    assert [r["step"] for r in validation] == [4, 8]
    assert "train.steps = 8" in shown
    assert any(workdir.joinpath("tensorboard").iterdir())


def test_keeps_the_newest_and_the_best(finished):
    steps = Checkpoints(finished[0] / "checkpoints").steps()
    assert steps == [6, 8]  # the newest two; the best (8) is one of them


@pytest.mark.parametrize("last", [6, 3])
def test_resumed_equals_uninterrupted(finished, module_recipe, tmp_path, last):
    """The state after a crash: checkpoints up to `last`, metrics beyond it, one line torn."""
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    if last == 3:  # only its own checkpoint, as after a crash between steps 3 and 6
        interrupted = tmp_path / "three"
        short = module_recipe.copy_and_resolve_references()
        stop_after(short, interrupted, 3)
        shutil.rmtree(copy / "checkpoints")
        shutil.copytree(interrupted / "checkpoints", copy / "checkpoints")
    else:
        shutil.rmtree(copy / "checkpoints" / "8")
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "split": "tr')
    assert f"resuming {copy} at step {last}" in run(module_recipe, copy)
    key = str  # order of lines of one step may not matter, their content does
    assert sorted(map(key, facts(copy))) == sorted(map(key, facts(finished[0])))
    assert checksums(copy, 8) == checksums(finished[0], 8)


def stop_after(recipe, workdir, step):
    """Trains as if SIGTERM came during `step`."""
    original = loop.Interrupt.requested
    loop.Interrupt.requested = lambda self, done: done >= step
    try:
        with pytest.raises(Interrupted, match="same command continues"):
            run(recipe, workdir)
    finally:
        loop.Interrupt.requested = original


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["device", "host"])
def test_an_optimizer_on_the_host_is_written_before_the_next_step(
    module_recipe, tmp_path, monkeypatch, placement
):
    """Orbax writes it from where it lies, which the next step reuses."""
    done, save, wait, place = [], Checkpoints.save, Checkpoints.wait, Parts.place

    def recorded(name, function):
        return lambda *arguments: (done.append(name), function(*arguments))[1]

    monkeypatch.setattr(Checkpoints, "save", recorded("save", save))
    monkeypatch.setattr(Checkpoints, "wait", recorded("wait", wait))
    monkeypatch.setattr(Parts, "place", recorded("step", place))
    recipe = module_recipe.copy_and_resolve_references()
    recipe.optimizer.placement, recipe.checkpoint.every, recipe.train.steps = placement, 1, 2
    run(recipe, tmp_path / "run")
    after = "wait" if placement == "host" else "step"
    assert done[:3] == ["step", "save", after], done


def test_another_mesh_restores_the_same_state(finished, module_recipe, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    shutil.rmtree(copy / "checkpoints" / "8")
    recipe = module_recipe.copy_and_resolve_references()
    recipe.mesh.fsdp, recipe.mesh.tensor = 4, 2
    assert "resuming" in run(recipe, copy)
    ours, theirs = facts(copy)[-1], facts(finished[0])[-1]
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_what_cannot_be_compiled_here_changes_nothing(finished, module_recipe, tmp_path):
    """cuDNN's attention on a CPU: refused when the step is traced, after the state was restored."""
    recipe = changed(module_recipe, train__attention="cudnn", train__steps=12)
    with pytest.raises(UserError, match="cudnn"):
        run(recipe, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    shutil.copytree(finished[0], tmp_path / "old")
    before = {file: (tmp_path / "old" / file).read_bytes() for file in KEPT}
    with pytest.raises(UserError, match="cudnn"):
        run(recipe, tmp_path / "old")
    assert before == {file: (tmp_path / "old" / file).read_bytes() for file in KEPT}


def test_a_finished_run_is_left_alone(finished, module_recipe):
    before = (finished[0] / "metrics.jsonl").read_bytes()
    shown = run(module_recipe, finished[0])
    assert "is finished: step 8 of 8" in shown and "resuming" not in shown
    shown = run(changed(module_recipe, train__steps=4), finished[0])
    assert "is at step 8, past train.steps=4" in shown and "resuming" not in shown
    assert (finished[0] / "metrics.jsonl").read_bytes() == before


def test_a_second_trainer_is_refused_and_changes_nothing(finished, module_recipe):
    before = (finished[0] / "metrics.jsonl").read_bytes()
    lock = Lock(finished[0])
    with pytest.raises(UserError, match=r"Another process .* is training in"):
        run(changed(module_recipe, train__steps=9), finished[0])
    assert (finished[0] / "metrics.jsonl").read_bytes() == before
    lock.release()
    assert not (finished[0] / ".lock").exists()


def test_a_run_in_a_folder_of_prepared_data_is_refused(corpus, module_recipe):
    before = (corpus / "tokenizer" / "jaxllm_tokenizer.json").read_bytes()
    with pytest.raises(UserError, match="is a folder of prepared data"):
        run(module_recipe, corpus)
    assert (corpus / "tokenizer" / "jaxllm_tokenizer.json").read_bytes() == before


def changed(recipe, **fields):
    recipe = recipe.copy_and_resolve_references()
    for name, value in fields.items():
        section, _, field = name.rpartition("__")
        target = recipe
        for part in section.split("__"):
            target = target[part] if part else target
        target[field] = value
    return recipe


@pytest.mark.parametrize(("fields", "message"), [
    ({"model__layers": 3}, "another model: model.layers was 2 and is 3"),
    ({"data__sequence_length": 16}, "The data changed"),
    ({"seed": 7}, "The data changed"),
    ({"optimizer__name": "lion"}, "optimizer.name='adamw', not 'lion'"),
])
def test_a_checkpoint_that_does_not_fit_is_refused(finished, module_recipe, fields, message):
    with pytest.raises(UserError, match=message):
        run(changed(module_recipe, **fields), finished[0])


@pytest.mark.parametrize(("fields", "message"), [
    ({"data__global_batch_size": 12}, r"8 groups of devices.*global_batch_size=8 or 16"),
    ({"model__vocab_size": 100}, "at least 259|smaller than the tokenizer's"),
    ({"mesh__fsdp": 3}, "The mesh .fsdp 3. needs 3 devices"),
    ({"mesh__fsdp": 1, "mesh__tensor": 8}, "does not divide the model's '(kv_)?heads' size"),
    ({"train__grad_accumulation": 3}, "each of 3 microbatches"),
    ({"train__dtype": "float23"}, "Did you mean 'float32'"),
    ({"train__remat": "ful"}, "Did you mean 'full'"),
    ({"train__attention": "spalsh"}, "Did you mean 'splash'"),
    ({"data__objective": "casual"}, "Did you mean 'causal'"),
    ({"model__preset": "llama2-7b"}, "Did you mean 'llama2_7b'"),
    ({"train__steps": 0}, "train.steps=0 must be at least 1"),
    ({"data__mixture__text__weight": 0.0}, r"every source \(text\) has weight 0"),
    ({"model__head__kind": "masked_lm"}, "'masked_lm' and data.objective='causal' do not go"),
    ({"optimizer__warmup_steps": 99}, r"train\.steps=\d.*Set --config\.optimizer\.warmup_steps="),
    ({"train__init_from": "/nowhere/run"}, "^train.init_from='/nowhere/run': there is no"),
])
def test_mistakes_are_named_and_leave_nothing_behind(module_recipe, tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        run(changed(module_recipe, **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_tokenizer_is_refused(finished, module_recipe, tmp_path):
    other = prepare_text(tmp_path, TEXT, kind="char")
    recipe = changed(module_recipe, tokenizer__path=str(other / "tokenizer"))
    with pytest.raises(UserError, match="another tokenizer than the one the data was prepared"):
        run(recipe, tmp_path / "run")
    recipe = changed(module_recipe, data__mixture__text__path=str(other))
    with pytest.raises(UserError, match=r"trained with another tokenizer|has another model"):
        run(recipe, finished[0])
    recipe.train.init_from = str(finished[0])
    recipe.model.preset = None
    with pytest.raises(UserError, match=r"train\.init_from=.* another tokenizer"):
        run(recipe, tmp_path / "run2")
    assert not (tmp_path / "run2").exists()


def test_init_from_starts_with_the_parameters_and_a_fresh_optimizer(
    finished, module_recipe, tmp_path
):
    recipe = changed(module_recipe, train__init_from=f"{finished[0]}@6", train__steps=1)
    recipe.model.preset = None
    recipe.model.width = None
    recipe.model.mlp.width = None
    recipe.optimizer.learning_rate = 1e-12
    run(recipe, tmp_path / "run", base=find_model(str(finished[0])).config)
    ours = checkpoint_params(tmp_path / "run", 1)
    theirs = checkpoint_params(finished[0], 6)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_an_origin_that_is_not_finite_is_to_blame(finished, module_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxllm.train.origin.first_not_finite", lambda params: "head.bias")
    recipe = changed(module_recipe, train__init_from=str(finished[0]))
    with pytest.raises(UserError, match=r"init_from=.* its parameter head\.bias is not finite"):
        run(recipe, tmp_path / "run", base=find_model(str(finished[0])).config)
    assert not (tmp_path / "run").exists()


def checkpoint_params(workdir, step):
    from jaxllm.models.load import find_model
    from jaxllm.nn.compute import make_compute

    return find_model(f"{workdir}@{step}").load(make_compute(), print).params


def test_a_non_finite_loss_stops_before_the_update(module_recipe, tmp_path):
    recipe = changed(
        module_recipe, optimizer__learning_rate=1e30, checkpoint__every=1, train__steps=6
    )
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match=r"not finite at step 2.*layer|embedding"):
        run(recipe, workdir)
    kept = np.load(workdir / "nonfinite_step_2.npz", allow_pickle=False)
    assert kept["inputs"].shape == (8, 32)
    assert Checkpoints(workdir / "checkpoints").steps() == [1]
    assert max(r["step"] for r in read_metrics(workdir / "metrics.jsonl")) == 1


def test_an_evaluation_that_fails_does_not_cost_the_training(module_recipe, tmp_path):
    class Fails:
        def check(self, config, tokenizer):
            pass

        def __call__(self, model, tokenizer):
            raise RuntimeError("no such metric")

    recipe = changed(module_recipe, train__steps=2, train__eval_every=0, checkpoint__every=0)
    with pytest.raises(RuntimeError, match="no such metric"):
        run(recipe, tmp_path / "run", [Fails()])
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [2]


def test_what_an_evaluator_cannot_do_is_known_before_training(module_recipe, tmp_path):
    from jaxllm.generate.samples import SampleEvaluator

    with pytest.raises(UserError, match=r"eval\.prompts: prompt 1 is empty"):
        run(module_recipe, tmp_path / "run", [SampleEvaluator(("",), 5)])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_bfloat16_parameters_load_and_are_not_mistaken_for_damage(module_recipe, tmp_path):
    recipe = changed(module_recipe, train__param_dtype="bfloat16", train__steps=1)
    run(recipe, tmp_path / "run")
    params = checkpoint_params(tmp_path / "run", 1)
    assert params["decoder"]["norm"]["scale"].dtype == np.float32
    recipe = changed(recipe, train__param_dtype="float32", train__steps=2)
    with pytest.raises(UserError, match=r"as bfloat16.*Restore train\.param_dtype"):
        run(recipe, tmp_path / "run")
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [1]


@pytest.mark.thorough
def test_stopped_at_an_evaluation_it_is_made_up_for(finished, module_recipe, tmp_path):
    stop_after(module_recipe.copy_and_resolve_references(), tmp_path / "run", 4)
    assert not [r for r in facts(tmp_path / "run") if r["split"] == "validation"]
    run(module_recipe, tmp_path / "run")
    assert sorted(map(str, facts(tmp_path / "run"))) == sorted(map(str, facts(finished[0])))


def test_a_damaged_newest_checkpoint_falls_back_loudly(finished, module_recipe, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    for file in (copy / "checkpoints" / "8" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    (copy / "checkpoints" / "9").mkdir()
    shown = run(module_recipe, copy)
    assert "The checkpoint of step 9 is damaged" in shown
    assert "The checkpoint of step 8 is damaged" in shown
    assert "resuming" in shown and "at step 6" in shown
    assert checksums(copy, 8) == checksums(finished[0], 8)


def test_evaluators_are_called_and_recorded(module_recipe, tmp_path):
    from jaxllm.generate.samples import SampleEvaluator

    recipe = changed(module_recipe, train__steps=2, train__eval_every=0)
    run(recipe, tmp_path / "run", [SampleEvaluator(("Line 1", "Line 2"), 5)])
    samples = [r for r in facts(tmp_path / "run") if r["split"] == "samples"]
    assert [r["prompt"] for r in samples] == ["Line 1", "Line 2"]
    assert all(r["step"] == 2 and isinstance(r["text"], str) for r in samples)
