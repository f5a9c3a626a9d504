"""Runs with a teacher, with what was kept of it, and with a robust loss, from the recipe on."""

import json
import shutil
from pathlib import Path

import pytest

from jaxllm.cli.main import main
from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.train.config import resolve_config
from jaxllm.train.distill.job import write_cache
from jaxllm.train.loop import train
from tests.train.conftest import make_recipe

ROOT = Path(__file__).resolve().parents[3]
STEPS = 3


def run(values, folder):
    """The losses of a run's steps."""
    train(resolve_config(values), {}, str(folder), make_display())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [r["loss"] for r in map(json.loads, lines) if r["split"] == "train" and "loss" in r]


@pytest.fixture(scope="module")
def recipe(corpus):
    values = make_recipe(corpus)
    values.model.layers = 1
    values.mesh.fsdp, values.mesh.data = 1, -1
    values.train.steps, values.eval.batches = STEPS, 1
    return values


@pytest.fixture(scope="module")
def teacher(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "teacher"
    return folder, run(recipe, folder)


def changed(recipe, **settings):
    values = recipe.copy_and_resolve_references()
    values.update_from_flattened_dict({k.replace("__", "."): v for k, v in settings.items()})
    return values


@pytest.mark.slow
def test_a_teacher_and_all_that_was_kept_of_it_train_alike(recipe, teacher, tmp_path):
    folder, plain = teacher
    in_step = changed(
        recipe, seed=7, tune__distillation__teacher=str(folder), checkpoint__every=2
    )
    first = run(in_step, tmp_path / "a")
    assert len(first) == STEPS and first[0] != plain[0]

    kept = changed(in_step, tune__distillation__top_k=264)
    write_cache(resolve_config(kept), str(tmp_path / "cache"), make_display())
    from_cache = changed(
        recipe, seed=7, tune__distillation__cache=str(tmp_path / "cache")
    )
    second = run(from_cache, tmp_path / "b")
    assert second == pytest.approx(first, rel=2e-3)

    # a longer run goes on from the checkpoint, its teacher read again
    longer = changed(in_step, train__steps=STEPS + 1)
    assert len(run(longer, tmp_path / "a")) == STEPS + 1
    with pytest.raises(UserError, match="the run takes"):
        run(changed(from_cache, train__steps=STEPS + 1), tmp_path / "c")


@pytest.mark.thorough
def test_a_teacher_that_changed_is_refused(recipe, teacher, tmp_path):
    """By what is in it: a teacher that was trained on is another, and its old step still goes."""
    folder = tmp_path / "teacher"
    shutil.copytree(teacher[0], folder)
    student = changed(recipe, tune__distillation__teacher=str(folder))
    run(student, tmp_path / "student")
    run(changed(recipe, train__steps=STEPS + 1), folder)  # the teacher learns on
    longer = changed(student, train__steps=STEPS + 1)
    with pytest.raises(UserError, match=(
        rf"learned from another teacher than tune\.distillation\.teacher=.*It is .*@{STEPS}\."
    )):
        run(longer, tmp_path / "student")
    kept = changed(longer, tune__distillation__teacher=str(folder), train__steps=STEPS + 1)
    write_cache(resolve_config(kept), str(tmp_path / "cache"), make_display())
    cached = changed(longer, tune__distillation__teacher="",
                     tune__distillation__cache=str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"another teacher than tune\.distillation\.cache="):
        run(cached, tmp_path / "student")
    longer.tune.distillation.teacher = f"{folder}@{STEPS}"
    assert len(run(longer, tmp_path / "student")) == STEPS + 1


@pytest.mark.thorough
def test_a_robust_loss(recipe, teacher, tmp_path):
    _, plain = teacher
    found = run(changed(recipe, tune__robust__name="neftune"), tmp_path / "a")
    assert found != plain and found[0] == pytest.approx(plain[0], rel=0.2)
    with pytest.raises(UserError, match=r"tune.robust.name='rdrop'"):
        run(changed(recipe, tune__robust__name="rdrop"), tmp_path / "b")


def test_a_teacher_that_is_not_there(recipe, tmp_path):
    with pytest.raises(UserError, match=r"tune\.distillation\.teacher"):
        run(changed(recipe, tune__distillation__teacher=str(tmp_path / "no")), tmp_path / "a")


@pytest.mark.thorough
def test_a_teacher_answers_prompts(teacher, tmp_path, capsys):
    folder, _ = teacher
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Line 1"}\n{"prompt": "Line 22"}\n')
    output = tmp_path / "rows.jsonl"
    asked = [
        "distill", f"--model={folder}", f"--prompts={tmp_path / 'prompts.jsonl'}",
        f"--output={output}", "--max_new_tokens=4",
    ]
    assert main([*asked, "--keep_unfinished", "--temperature=0"]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert {row["prompt"] for row in rows} <= {"Line 1", "Line 22"}
    assert all(set(row) == {"prompt", "completion"} and row["completion"] for row in rows)
    assert "rows" in capsys.readouterr().out
    assert main(asked) == 2 and "exists" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "words"), [
    (["--model=runs/none", "--output=o"], "--prompts is missing"),
    (["--config=configs/llama.py:debug"], "--workdir is missing"),
    (["--config=configs/llama.py:debug", "--workdir=w", "--config.tune.distillation.beta=2.0"],
     "beta=2.0"),
    (["--config=configs/llama.py:debug", "--workdir=w"], "tune.distillation.teacher is empty"),
])
def test_mistakes_of_the_verb(arguments, words, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["distill", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error, error
