"""Every recipe's debug variant trains: bundled data, a few steps, a loss that is written."""

from pathlib import Path

import pytest

from jaxllm.cli.main import main
from jaxllm.core.rundir import read_metrics

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
QUICKSTART = (
    "quickstart", "quickstart_domain", "quickstart_instruct", "shakespeare_char"
)  # the story's and the bench's
RECIPES = sorted(file.stem for file in CONFIGS.glob("*.py") if file.stem not in QUICKSTART)
# Those of fine-tuning, with the runs that they go on from.
TUNING = {
    "banking77": ("bert",), "domain": ("llama",), "domain_instruct": ("llama", "tune/domain"),
    "gemma_lora": ("gemma3",), "instruct": ("llama",), "llama3_8b_lora": ("llama",),
    "multitask": ("llama",), "summarize": ("t5",), "wnut17": ("bert",),
}


@pytest.fixture(scope="module")
def shakespeare(tmp_path_factory):
    """The text with the special tokens that every objective needs."""
    folder = tmp_path_factory.mktemp("data") / "shakespeare"
    recipe = f"--config={CONFIGS / 'data/shakespeare.py'}:special"
    assert main(["prepare", recipe, f"--workdir={folder}"]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_debug_variant_trains(recipe, shakespeare, tmp_path):
    arguments = {
        "data.mixture.shakespeare.path": shakespeare, "train.steps": 4, "train.log_every": 2,
        "train.eval_every": 4, "optimizer.warmup_steps": 1, "eval.batches": 1,
    }
    flags = [f"--config.{name}={value}" for name, value in arguments.items()]
    code = main(["train", f"--config={CONFIGS / recipe}.py:debug", f"--workdir={tmp_path}", *flags])
    assert code == 0
    records = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert [r["step"] for r in records if r["split"] == "train"] == [2, 4]
    assert all(0 < r["loss"] < 20 for r in records if r.get("loss") is not None)
    assert any(r["split"].startswith("validation") for r in records)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(TUNING))
def test_a_debug_variant_of_fine_tuning_trains(recipe, shakespeare, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/shakespeare").symlink_to(shakespeare)
    monkeypatch.chdir(tmp_path)
    for name in (*TUNING[recipe], f"tune/{recipe}"):
        workdir = f"runs/debug/{name.split('/')[-1]}"
        flags = [
            f"--config.{field}={value}" for field, value in {
                "train.steps": 4, "train.log_every": 2, "train.eval_every": 4, "eval.batches": 1,
                "checkpoint.every": 4, "optimizer.warmup_steps": 0,
            }.items()
        ]
        assert main(
            ["train", f"--config={CONFIGS / name}.py:debug", f"--workdir={workdir}", *flags]
        ) == 0
    records = read_metrics(tmp_path / "runs/debug" / recipe / "metrics.jsonl")
    assert [r["step"] for r in records if r["split"] == "train"] == [2, 4]
    assert all(0 < r["loss"] < 20 for r in records if r.get("loss") is not None)
    assert any(r["split"].startswith("validation") for r in records)


def test_every_recipe_of_fine_tuning_is_tried():
    assert sorted(TUNING) == sorted(file.stem for file in (CONFIGS / "tune").glob("*.py"))
