"""`jaxllm advise`: a dozen situations, what is reckoned for them, and mistakes."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxllm.cli.main import main
from jaxllm.core.errors import UserError
from jaxllm.models.config import preset
from jaxllm.plan.adapters import NF4_BITS, adapters, base_bytes
from jaxllm.plan.advise import advise
from jaxllm.plan.flops import Lengths
from jaxllm.plan.rules import APPROACHES, NEVER, RULES
from jaxllm.plan.shapes import model_shape
from jaxllm.plan.situation import ALIASES, GOALS, Situation
from jaxllm.plan.tuning import cost, find_machine
from jaxllm.plan.workload import Workload

ROOT = Path(__file__).resolve().parents[2]

# what is said, the approaches from the best, and those that are ruled out
SITUATIONS = {
    "a few examples, one large GPU": (
        {"goal": "classify", "examples": 12, "hardware": "h100x1"},
        ["few_shot"], {"lora", "qlora", "full", "retrieval", "continued", "scratch"},
    ),
    "labels for a small encoder": (
        {"goal": "classify", "examples": 10_000, "hardware": "cpu"},
        ["full", "scratch"], {"few_shot", "continued"},
    ),
    "entities with text of the field": (
        {"goal": "ner", "examples": 3_000, "domain_tokens": 5e7, "hardware": "l4"},
        ["full"], {"scratch", "retrieval"},
    ),
    "an assistant on one large GPU": (
        {"goal": "chat", "examples": 20_000, "model": "llama3.1_8b", "hardware": "h100x1"},
        ["lora"], {"full", "retrieval", "scratch"},
    ),
    "an assistant on a small GPU": (
        {"goal": "chat", "examples": 20_000, "model": "llama3.1_8b", "hardware": "t4"},
        ["qlora"], {"lora", "full", "few_shot"},
    ),
    "millions of conversations on a slice": (
        {"goal": "instruct", "examples": 5_000_000, "model": "llama3.1_8b",
         "hardware": "v5p-128"},
        ["full"], {"scratch"},
    ),
    "a few conversations": (
        {"goal": "style", "examples": 30, "model": "llama3.1_8b", "hardware": "h200:1"},
        ["few_shot", "lora", "qlora", "full"], {"retrieval", "scratch"},
    ),
    "summaries": (
        {"goal": "summarize", "examples": 8_000, "hardware": "v5e-4"},
        ["full"], {"retrieval", "continued", "scratch"},
    ),
    "questions about a handbook": (
        {"goal": "qa", "domain_tokens": 2e6, "hardware": "h100x1"},
        ["retrieval"], {"lora", "qlora", "full", "scratch"},
    ),
    "a field with much text": (
        {"goal": "domain", "domain_tokens": 2e9, "examples": 5_000, "hardware": "v5p-32"},
        ["continued"], {"few_shot", "scratch"},
    ),
    "a field with little text": (
        {"goal": "domain", "domain_tokens": 3e6, "hardware": "h100x1"},
        ["retrieval", "continued"], {"few_shot", "scratch", "full"},
    ),
    "a language with some text": (
        {"goal": "language", "domain_tokens": 3e8, "hardware": "v5e-8"},
        ["continued", "scratch"], {"few_shot", "retrieval"},
    ),
    "a language with much text": (
        {"goal": "language", "domain_tokens": 6e10, "hardware": "v5p-256"},
        ["scratch", "continued"], {"few_shot", "retrieval"},
    ),
    "nothing but a laptop": (
        {"goal": "chat", "examples": 100_000, "model": "llama3.1_70b", "hardware": "cpu"},
        [], set(APPROACHES),
    ),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_situations(name):
    said, first, out = SITUATIONS[name]
    advice = advise(Situation(**said))
    order = [option.approach for option in advice.options if option.possible]
    assert order[: len(first)] == first, order
    ruled_out = {option.approach for option in advice.options if not option.possible}
    assert out <= ruled_out, ruled_out
    assert sorted(o.approach for o in advice.options) == sorted(APPROACHES)
    assert (advice.best is None) == (not first)
    for option in advice.options:
        assert option.possible == bool(option.command)
        if option.possible:
            assert 0 < option.memory <= 0.96 * advice.device_memory and option.latency > 0
        else:
            assert len(option.reasons) == 1 and option.reasons[0].points == NEVER


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_commands_name_recipes_and_fields_that_exist(name):
    from jaxllm.cli.flags import parse

    for option in advise(Situation(**SITUATIONS[name][0])).options:
        for command in option.command.split("&&"):
            words = re.findall(r"--\S+", command)
            recipes = [w for w in words if w.startswith("--config=")]
            if not recipes:
                continue
            kind = "prepare" if "prepare" in command else "train"
            if "budget_flops" in command:
                words = [w for w in words if "budget" not in w]
            rest = [w for w in words if w not in recipes]
            recipe = recipes[0].replace("--config=", f"--config={ROOT}/")
            parse([recipe, *rest], "", workdir="--workdir" in command, kind=kind)


def test_every_rule_says_something_of_an_approach_and_who_says_so():
    for rule in RULES:
        assert rule.approach in APPROACHES and rule.points and rule.source and rule.reason
    assert {rule.approach for rule in RULES} == set(APPROACHES)
    assert set(ALIASES.values()) <= set(GOALS)


def test_limits_of_time_and_latency_count():
    fast = Situation("classify", 10_000, hardware="h100x1")
    slow = advise(dataclasses.replace(fast, latency=5.0))
    prompted = next(o for o in slow.options if o.approach == "few_shot")
    assert any("5 ms" in reason.text for reason in prompted.reasons)
    assert not any("ms" in r.text for r in slow.best.reasons)
    months = advise(Situation("domain", 5000, 2e12, hardware="h100x1"))
    assert any("months" in r.text for o in months.options for r in o.reasons)


def test_memory_of_lora_and_qlora():
    """Llama 3.1 8B: 16.06 GB in bfloat16, layers' matrices in 4.13 bits; adapters' figures."""
    shape = model_shape(preset("llama3.1_8b").completed())
    assert pytest.approx(4.127, abs=1e-3) == NF4_BITS <= 4.13
    assert base_bytes(shape, "lora") == 2 * 8_030_261_248
    kernels = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14_336)
    expected = kernels * NF4_BITS / 8 + 2 * (8_030_261_248 - kernels)
    assert base_bytes(shape, "qlora") == pytest.approx(expected)
    # PEFT prints 41,943,040 trainable parameters for r=16 on all seven matrices
    assert adapters(shape) == 41_943_040
    work = Workload(shape, Lengths(1024), 32, 1, 100, "adamw", 4, 4, 2, "auto")
    where = find_machine("h100x1")
    lora, qlora, full = (cost(work, where, m) for m in ("lora", "qlora", "full"))
    assert lora.memory.optimizer < 0.01 * full.memory.optimizer
    assert lora.fits and qlora.fits and not full.fits
    assert qlora.memory.parameters < 0.4 * lora.memory.parameters
    same = [cost(work, find_machine("h200:8"), m).step.total for m in ("full", "lora")]
    assert 0.5 < same[1] / same[0] < 0.8  # frozen products have two passes of three


@pytest.mark.parametrize(("name", "chips", "memory"), [
    ("h100x1", 1, 84.9), ("h100:8", 8, 84.9), ("rtx4090", 1, 25.2), ("a100x8", 8, 84.8),
    ("v5e-8", 8, 16.9), ("v6e:4x4", 16, 33.6), ("cpu", 1, 12.9), ("H200x2", 2, 150.8),
])
def test_machines(name, chips, memory):
    found = find_machine(name)
    assert found.chips == chips
    assert found.chip.hbm_bytes / found.chip.devices / 1e9 == pytest.approx(memory, abs=0.1)
    assert find_machine(name, memory=24).chip.hbm_bytes == 24e9


@pytest.mark.parametrize(("arguments", "words"), [
    (["--goal=clasify"], "Did you mean 'classify'"),
    (["--goal=chat", "--model=llama3.1_9b"], "llama3.1_8b"),
    (["--goal=chat", "--hardware=rtx4080"], "Did you mean 'rtx4090'"),
    (["--goal=chat", "--hardware=v5e-7"], "nearest slices"),
    (["--goal=chat", "--hardware=h100x9"], "8 H100s"),
    (["--goal=chat", "--hardware=cpu:2"], "cpu:1"),
    (["--goal=chat", "--examples=-1"], "--examples=-1"),
    (["--goal=chat", "--domain_tokens=inf"], "--domain_tokens"),
    (["--goal=chat", "--model=gpt2", "--parameters=1e9"], "one of them"),
    (["--goal=chat", "--exmples=5"], "Did you mean '--examples'"),
    ([], "--goal is missing"),
])
def test_mistakes_end_with_one_paragraph(capsys, arguments, words):
    code = main(["advise", *arguments])
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and words in error, error


def test_the_verb(capsys, tmp_path):
    file = tmp_path / "new" / "advice.json"
    code = main([
        "advise", "--goal=chat", "--examples=20000", "--parameters=8e9", "--hardware=h100x1",
        f"--output={file}",
    ])
    out = capsys.readouterr().out
    assert code == 0 and "Advice: LoRA" in out and "configs/tune/" in out and "Assumed:" in out
    content = json.loads(file.read_text())
    assert content["options"][0]["approach"] == "lora"
    assert content["options"][-1]["points"] is None


def test_a_recipe_says_goal_and_model(capsys):
    code = main([
        "advise", f"--config={ROOT}/configs/tune/summarize.py", "--examples=5000",
        "--hardware=v5e-4",
    ])
    out = capsys.readouterr().out
    assert code == 0 and "t5_base" in out and "configs/tune/summarize.py" in out


def test_it_needs_no_jax():
    program = (
        "import sys; from jaxllm.cli.main import main; "
        "main(['advise', '--goal=chat', '--examples=1000', '--hardware=v6e-256']); "
        "print('loaded', sorted({'jax', 'flax'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "loaded []"


def test_bad_numbers_in_python_are_refused_too():
    with pytest.raises(UserError, match="--latency"):
        advise(Situation("chat", latency=-1))
