"""The benchmarks run in their debug modes and print what they promise: ratios and the machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BENCH = ROOT / "tools" / "bench"


def bench(name: str, *arguments: str, **environment: str) -> str:
    # one thread: torch's wait for each other in a spin, and the tests run side by side
    fixed = {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **fixed, **environment}
    environment.pop("XLA_FLAGS", None)  # one device, not the tests' eight
    done = subprocess.run(
        (sys.executable, str(BENCH / name), "--debug", *arguments), cwd=ROOT, text=True,
        env=environment, capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("machine: ")
    return done.stdout


def needs_torch() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")


@pytest.mark.slow
def test_step_prints_the_ratio_of_both_sides():
    needs_torch()
    output = bench("step.py")
    assert "jaxllm                   min" in output
    assert "transformers, torch      min" in output
    assert output.count("ratio to the first") == 2
    assert output.count("'parameters': 131392") == 2  # both sides count the same model


@pytest.mark.slow
def test_gpu_parts_of_ours_write_their_results(tmp_path):
    output = bench("gpu.py", "--parts=jaxllm_1b_packed,attention,loss", OUT=str(tmp_path))
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["jaxllm_1b_packed"]["step_seconds"] > 0
    assert results["jaxllm_1b_packed"]["options"]["documents"] == 4
    assert {"xla_16_documents_1", "xla_16_documents_4"} <= results["attention"].keys()
    assert {"chunk_default", "chunk_16", "chunk_64"} <= results["loss"].keys()
    assert not any("ended_with" in result for result in results.values()), output


def test_a_part_that_fails_does_not_take_the_others_along(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu

    failed = gpu._run("jaxllm_1b", {"model": "1b"}, 60, True)  # no batch: it ends with an error
    assert failed["ended_with"] != 0
    assert "KeyError" in failed["stderr"]
    stopped = gpu._run("loss", {}, 0.1, True)
    assert stopped["ended_with"] == -9


def test_sizes_shrink_until_they_fit(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu

    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    arguments = gpu._arguments()
    tried = gpu._attempts("jaxllm_1b", gpu.LARGE, arguments, {})
    assert [a["batch"] for a in tried] == [8, 6, 4, 2, 1]
    tried = gpu._attempts("torch_8b", 80 * 1024, arguments, {"ceiling": {"torch_attention": "x"}})
    assert [a["layers"] for a in tried] == [8, 6, 4, 2]
    assert tried[0]["torch_attention"] == "x"


@pytest.mark.slow
def test_convert_compares_with_the_disk():
    output = bench("convert.py")
    assert output.count("ratio") == 4 and output.count("peak extra memory") == 5
    assert "there and back           bitwise equal" in output


@pytest.mark.slow
def test_gpu_runs_whole_on_a_cpu():
    needs_torch()
    output = bench("gpu.py")
    assert "1b: jaxllm / torch ratio" in output
    assert "8b: jaxllm / torch ratio" in output
    assert "character recipe: best validation loss" in output


@pytest.mark.slow
def test_startup_prints_cold_and_cached():
    output = bench("startup.py")
    assert "heavy packages loaded: none" in output
    assert "cold / cached            ratio" in output


@pytest.mark.slow
def test_packing_compares_packed_rows_with_padded():
    output = bench("packing.py")
    found = dict(re.findall(r"^(packed|padded) .* padding +([\d.]+)%", output, re.MULTILINE))
    assert float(found["packed"]) < 5 < float(found["padded"])
    assert "packed / padded          ratio: text a second" in output


@pytest.mark.thorough
def test_resume_survives_kills():
    output = bench("resume.py")
    assert "3 of 3 kills" in output
    assert "equal: " in output


@pytest.mark.slow
def test_shakespeare_char_compares_the_step_without_nanogpt():
    needs_torch()
    output = bench("shakespeare_char.py")
    assert "validation loss" in output
    assert output.count("ratio to the first") == 2


@pytest.mark.slow
def test_both_backends_of_lm_eval_answer_alike():
    needs_torch()
    pytest.importorskip("lm_eval")
    pytest.importorskip("accelerate")
    output = bench("evals_parity.py")
    assert output.endswith("all rows hold\n")
    assert output.count("| local_bbh_navigate | 0 | 4 | – |") == 3  # models
    assert output.count("4 of 4 | yes |") == 3
    assert output.count("| local_piqa | 2 | 4 | ") == 3
