"""The verbs as a person types them: every bundled recipe's debug variant, and the mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxllm.cli.main import main
from jaxllm.core.rundir import read_metrics

ROOT = Path(__file__).parents[2]
RUNS = "runs/quickstart"


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A folder in which the quickstart was told with debug variants; gives (folder, exit codes)."""
    folder = tmp_path_factory.mktemp("story")
    before = Path.cwd()
    os.chdir(folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    commands = [
        f"prepare --config=configs/data/shakespeare.py --workdir={RUNS}/data/shakespeare",
        f"prepare --config=configs/data/fomc.py --workdir={RUNS}/data/fomc",
        "preview --config=configs/quickstart.py:debug",
        f"train --config=configs/quickstart.py:debug --workdir={RUNS}/base_debug",
        f"train --config=configs/quickstart_domain.py:debug --workdir={RUNS}/domain_debug",
        "preview --config=configs/quickstart_instruct.py:debug --rows=1",
        f"train --config=configs/quickstart_instruct.py:debug --workdir={RUNS}/assistant_debug",
        f"eval --model={RUNS}/base_debug,{RUNS}/domain_debug,{RUNS}/assistant_debug "
        f"--data={RUNS}/data/shakespeare,{RUNS}/data/fomc --batches=2",
        f"report {RUNS}/base_debug {RUNS}/domain_debug {RUNS}/assistant_debug",
        "prepare --config=configs/data/shakespeare_char.py --workdir=data/shakespeare_char",
    ]
    codes = {command: main(command.split()) for command in commands}
    yield folder, codes
    os.chdir(before)


def test_the_whole_story_succeeds(story):
    folder, codes = story
    assert set(codes.values()) == {0}, codes
    base = read_metrics(folder / RUNS / "base_debug/metrics.jsonl")
    losses = [r["loss"] for r in base if r["split"] == "validation"]
    assert losses[-1] < losses[0]
    page = (folder / RUNS / "assistant_debug/report.html").read_text()
    assert "base_debug" in page and "assistant_debug" in page and "Learned and forgotten" in page
    domain = json.loads((folder / RUNS / "domain_debug/config.json").read_text())
    assert domain["config"]["model"]["width"] == 64  # followed from init_from


@pytest.mark.thorough
def test_the_character_recipe_trains(story):
    folder, _ = story
    command = "train --config=configs/shakespeare_char.py:debug --workdir=runs/char"
    assert main([*command.split(), "--config.data.global_batch_size=8"]) == 0
    losses = [r["loss"] for r in read_metrics(folder / "runs/char/metrics.jsonl") if "loss" in r]
    assert losses[-1] < losses[0]


def test_generate_streams_a_prompt_and_batches_several(story, capsys):
    assert main(["generate", f"--model={RUNS}/base_debug", "--prompt=ROMEO:",
                 "--max_new_tokens=8"]) == 0
    assert capsys.readouterr().out.startswith("ROMEO:")
    assert main(["generate", f"--model={RUNS}/base_debug", "--prompt=A, b", "--prompt=Nay",
                 "--max_new_tokens=8", "--temperature=0"]) == 0
    shown = capsys.readouterr().out
    assert "--- 1/2" in shown and "\nA, b" in shown and "\nNay" in shown


def test_a_tuned_run_is_asked_by_its_own_chat_template(story, capsys):
    assert main(["generate", f"--model={RUNS}/assistant_debug", "--chat", "--prompt=Who?",
                 "--max_new_tokens=4"]) == 0
    assert capsys.readouterr().out.startswith("Who?\n")


def test_load_from_python(story):
    import jaxllm

    model = jaxllm.load(f"{RUNS}/base_debug")
    [completion] = model.generate("ROMEO:", max_new_tokens=4, temperature=0)
    assert len(completion.token_ids) <= 4
    [scores] = model.score("To be or not")
    assert len(scores) == len(model.tokenizer.encode("To be or not")) - 1
    assert (scores < 0).all()


@pytest.mark.parametrize(("command", "message"), [
    ("trian", "verb='trian' is unknown. Did you mean 'train'"),
    ("train --confg=x --workdir=y", "--confg is no flag of this verb. Did you mean '--config'"),
    ("train --config=configs/quikstart.py --workdir=y", "Did you mean 'configs/quickstart.py'"),
    (f"train --config={ROOT}/configs/quikstart.py --workdir=y", "/configs/quickstart.py'"),
    ("prepare --config=configs/data/text.py --config.input.paths=('sample:fomc',) "
     "--config.tokenizer.kind=byte --config.tokenizer.vocab_size=5 --workdir=y",
     "tokenizer.vocab_size=5 has no effect: tokenizer.kind='byte' does not read it. Leave it at "
     "32000, or"),
    ("train --config=configs/quickstart.py:debgu --workdir=y", "Did you mean 'debug'"),
    ("train --config=configs/quickstart.py", "--workdir is missing"),
    ("train --config=configs/quickstart.py --workdir=y --config.train.stps=1",
     "--config.train.stps is no known field. Did you mean 'steps'"),
    ("train --config=configs/quickstart.py --workdir=y --config.train.steps=many",
     "--config.train.steps=many"),
    ("train --config=configs/quickstart.py --workdir=y --config.optimizer.schedule=cosin",
     "Did you mean 'cosine'"),
    ("train --config=configs/quickstart.py --workdir=y --config.data.mixture.shakespeare.path=no",
     "no manifest.json"),
    ("generate --model=nowhere --prompt=x", "there is no nowhere"),
    ("generate --model=runs/quickstart/base_debug@3 --prompt=x", "Steps there: 10, 20"),
    ("generate --model=runs/quickstart/base_debug --prompt=x --top_p=3", "top_p=3.0"),
    ("generate --prompt=x", "--model is missing"),
    ("train --config=configs/quickstart_domain.py --workdir=y --config.train.init_from=no",
     "train.init_from='no': there is no no"),
    ("train --config=configs/quickstart.py --workdir=runs/quickstart/data/shakespeare",
     "is a folder of prepared data"),
    ("eval --model=runs/quickstart/base_debug --data=data/shakespeare_char", "another tokenizer"),
    ("report nowhere", "no run directory"),
])
def test_a_mistake_is_one_paragraph_and_exit_code_2(story, capsys, command, message):
    assert main(command.split()) == 2
    shown = capsys.readouterr()
    paragraph = shown.err.strip().splitlines()[-1]
    assert shown.out == ""
    assert paragraph.startswith("jaxllm: ") and message in paragraph
    assert "Traceback" not in paragraph


def train_command(story, workdir, *extra):
    return [
        sys.executable, "-m", "jaxllm", "train", "--config=configs/quickstart.py:debug",
        f"--workdir={workdir}", "--config.train.log_every=1", *extra,
    ]


@pytest.mark.thorough
def test_a_disk_that_is_full_is_told_in_a_line(story):
    """A limit on the size of files stands for it."""
    folder, _ = story
    command = " ".join(["ulimit -f 100; exec", *train_command(story, "runs/full")])
    result = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True, timeout=90, text=True,
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "jaxllm: Cannot write" in result.stderr.splitlines()[-1]
    assert "ulimit -f" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_sigterm_saves_and_exits_3_and_the_same_command_finishes(story):
    folder, _ = story
    environment = os.environ | {"XLA_FLAGS": ""}
    command = train_command(story, "runs/stopped", "--config.train.steps=4000")
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE)
    metrics = folder / "runs/stopped/metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(read_metrics(metrics)) < 6:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 3, shown.decode()
    assert "the state is saved" in shown.decode()
    stopped = max(r["step"] for r in read_metrics(metrics))
    command = train_command(story, "runs/stopped", f"--config.train.steps={stopped + 2}")
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=90)
    assert result.returncode == 0, result.stderr.decode()
    assert f"resuming runs/stopped at step {stopped:,}" in result.stderr.decode()
    steps = [r["step"] for r in read_metrics(metrics) if r["split"] == "train"]
    assert steps == list(range(1, stopped + 3))


def test_sigterm_before_the_run_has_begun_exits_3(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import pathlib, time\n\n\ndef get_config():\n"
        f"    pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-m", "jaxllm", "train", f"--config={recipe}", "--workdir=x"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (tmp_path / "begun").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=30)
    assert (process.returncode, "terminated" in shown) == (3, True), shown


def test_help_is_quick_and_light():
    code = (
        "import sys; from jaxllm.cli.main import main; main(['--help']); "
        "assert not {'jax', 'flax', 'grain', 'numpy'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    for verb in ("prepare", "preview", "train", "eval", "generate", "report"):
        assert f"\n  {verb}" in shown.stdout
