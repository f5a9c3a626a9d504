"""Every recipe's debug variant trains: the bundled text, a few steps, a loss that is written."""

from pathlib import Path

import pytest

from jaxllm.cli.main import main
from jaxllm.core.rundir import read_metrics

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
QUICKSTART = ("quickstart", "quickstart_domain", "shakespeare_char")  # the story's and the bench's
RECIPES = sorted(file.stem for file in CONFIGS.glob("*.py") if file.stem not in QUICKSTART)


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
