"""`jaxllm plan`: what it prints and writes, what it refuses, what it does not load."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxllm.cli.main import main
from jaxllm.report.page import write_report

ROOT = Path(__file__).resolve().parents[2]
RECIPE = f"--config={ROOT}/configs/llama.py"
LARGE = ("--config.model.preset=llama3.1_8b", "--config.data.sequence_length=8192")


def run(capsys, *arguments):
    code = main(["plan", RECIPE, *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_without_a_slice(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    assert "1,235,814,400" in out and "petaFLOP/s-days" in out
    assert "Besiroglu" in out and "Hoffmann 1" in out and "Memory" not in out
    assert "vocabulary: 128,256 tokens, that of the preset llama3.2_1b" in out


def test_with_a_slice(capsys, tmp_path):
    file = tmp_path / "new" / "plan.json"
    code, out, _ = run(
        capsys, "--topology=v5p-128", *LARGE, "--tokens=1e12", f"--output={file}",
        "--config.data.global_batch_size=256",
    )
    assert code == 0
    for words in (
        "v5p-128 counts TensorCores", "v5p:4x4x4: 64 chips", "Memory of a device", "fits",
        "Time of a step", "predicted MFU", "cost, on demand", "smallest v5p slice that fits",
        "Meshes and remat policies", "Assumed:", "MFU = tokens/s x FLOPs per token",
    ):
        assert words in out, words
    content = json.loads(file.read_text())
    assert content["size"]["parameters"] == 8_030_261_248
    assert content["size"]["tokens"] == 1e12
    machine = content["machine"]
    assert machine["chips"] == 64 and machine["fits"]
    chosen = machine["chosen"]
    assert sum(chosen["memory_bytes"].values()) == pytest.approx(chosen["total_bytes"])
    assert sum(chosen["seconds"].values()) == pytest.approx(chosen["step_seconds"])
    days = 1e12 / chosen["tokens_per_second"] / 86_400
    assert machine["days"] == pytest.approx(days)
    assert machine["costs"]["on_demand"] == pytest.approx(4.2 * 24 * 64 * days)


@pytest.mark.parametrize(("arguments", "words"), [
    (["--topology=v5p-100"], ["v5p:4x4x4", "counts TensorCores"]),
    (["--topology=v6e-16", "--config.mesh.tensor=3"], ["multiply to 16"]),
    (["--topology=v6e-64", "--config.mesh.tensor=64"], ["mesh.tensor=64", "heads=32"]),
    (["--topology=v6e-16", "--config.mesh.context=3"], ["multiply to 16"]),
    (["--topology=v6e-256"], ["data.global_batch_size=128", "256 groups"]),
    (["--topology=v6e-16", "--terms=weekly"], ["--terms='weekly'"]),
    (["--budget_dollars=100"], ["--topology"]),
    (["--topology=v6e-16", "--budget_dollars=1", "--budget_flops=1e20"], ["Give one budget"]),
    (["--topology=v6e-16", "--prices=none.json"], ["none.json"]),
    (["--tokens=-1"], ["tokens"]),
    (["--topolgy=v6e-16"], ["Did you mean '--topology'"]),
    (["--config.train.remat=ful"], ["'ful'", "'full'"]),
])
def test_mistakes_end_with_one_paragraph(capsys, arguments, words):
    code, _, err = run(capsys, *arguments)
    assert code == 2 and err.count("\n") == 1
    assert all(word in err for word in words), err


def test_budgets_and_own_prices(capsys, tmp_path):
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps({"per_chip_hour": {"v6e": {"spot": 0.5}}, "as_of": "today"}))
    code, out, _ = run(
        capsys, "--topology=v6e-16", f"--prices={prices}", "--terms=spot", "--budget_dollars=1000"
    )
    assert code == 0 and "at 0.5 per chip-hour" in out and "no price known" in out
    code, _, err = run(capsys, "--topology=v6e-16", f"--prices={prices}", "--budget_dollars=1000")
    assert code == 2 and "no price of this chip" in err
    _, out, _ = run(capsys, "--topology=v6e-16", "--budget_chip_days=1000")
    assert "Best use of" in out


def test_what_does_not_fit_says_so_and_what_does(capsys):
    code, out, _ = run(
        capsys, "--topology=v5e-16", *LARGE, "--config.train.remat=none",
        "--config.data.global_batch_size=64",
    )
    assert code == 0 and "DOES NOT FIT" in out


@pytest.mark.parametrize("recipe", sorted(
    path.name for path in (ROOT / "configs").glob("*.py") if "quickstart" not in path.name
))
def test_every_recipe_has_a_plan(capsys, recipe):
    code = main(["plan", f"--config={ROOT}/configs/{recipe}", "--topology=v5e-4"])
    captured = capsys.readouterr()
    assert code == 0 and "Time of a step" in captured.out, captured.err


def test_jax_is_not_loaded():
    program = (
        "from jaxllm.cli.main import main; import sys; "
        f"main(['plan', '{RECIPE}', '--topology=v5p-128', '--config.model.preset=llama3.1_405b']); "
        "print('loaded', sorted({'jax', 'flax'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "loaded []"


def test_the_report_draws_it(capsys, tmp_path):
    file = tmp_path / "plan.json"
    run(capsys, "--topology=v5p-16", f"--output={file}")
    for given in (str(file), str(tmp_path)):
        page = Path(write_report([given])).read_text()
        assert "Loss against compute" in page and "petaFLOP/s-days" in page
        assert "plan_loss" in page and "training loss" not in page
    file.write_text("{}")
    assert main(["report", str(file)]) == 2
