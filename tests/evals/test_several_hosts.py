"""Evaluation on tasks by two real processes: process 0 drives, and gets the scores of one."""

import json
import shutil

import numpy as np
import pytest

from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.evals.harness import session
from jaxllm.evals.scoring import follow
from jaxllm.models.load import find_model
from tests.multihost.processes import Processes

pytest.importorskip("lm_eval")
TASKS = ["local_mmlu_marketing", "local_piqa", "local_bbh_navigate"]
EVAL = """
import sys
from jaxllm.cli.main import main
sys.exit(main(["eval", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def t5(llama, tmp_path_factory):
    """An encoder-decoder with the Llama's tokenizer."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("models") / "t5"
    folder.mkdir()
    for file in llama.glob("*token*"):
        shutil.copy(file, folder)
    torch.manual_seed(0)
    transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=len(transformers.AutoTokenizer.from_pretrained(llama)), d_model=32, d_kv=8,
        d_ff=48, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0,
    )).save_pretrained(folder)
    return folder


def command(models, benchmarks, output):
    return [
        f"--model={','.join(map(str, models))}", f"--tasks={','.join(TASKS)}",
        f"--task_data={benchmarks}", f"--output={output}", "--batch_size=8",
        "--sequence_length=128",
    ]


def samples(folder, model, task):
    text = (folder / model / f"samples_{task}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_call_arrives_as_it_was_made():
    arrays = (np.arange(6, dtype=np.int32).reshape(2, 3), np.ones(0, bool))
    message = follow._packed("score", ("rows", arrays, None, {"stop": ["\n"]}))
    assert len(message) == follow.LEAST
    name, [kind, found, nothing, settings] = follow._unpacked(message)
    assert (name, kind, nothing, settings) == ("score", "rows", None, {"stop": ["\n"]})
    for one, two in zip(found, arrays, strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    large = follow._packed("score", (np.zeros(2**16, np.int32),))
    assert len(large) == 2**17  # a power of two
    with pytest.raises(TypeError, match="neither JSON nor an array"):
        follow._packed("score", (object(),))


def test_a_follower_refuses_another_model_of_the_name(llama, monkeypatch):
    calls = [(session.OPEN, [str(llama), find_model(str(llama)).fingerprint]),
             (session.OPEN, [str(llama), "another"])]
    reached = []

    def following():
        for place, call in enumerate(calls):
            reached.append(place)
            yield call

    monkeypatch.setattr(session, "following", following)
    with pytest.raises(UserError, match="has other parameters on the host of process 0"):
        session.follow(make_display(), session.Settings())
    assert reached == [0, 1]


@pytest.mark.slow
def test_two_processes_score_and_write_as_one(llama, t5, benchmarks, tmp_path):
    models = (llama, t5)
    with (
        Processes(EVAL, command(models, benchmarks, tmp_path / "two"), 2) as two,
        Processes(EVAL, command(models, benchmarks, tmp_path / "one"), 1) as one,
    ):
        two.finish(0, 0)
        one.finish(0)
    for model in ("llama", "t5"):
        for task in TASKS:
            both = [samples(tmp_path / name, model, task) for name in ("one", "two")]
            assert len(both[0]) == len(both[1]) >= 6
            for mine, other in zip(*both, strict=True):
                assert mine["arguments"] == other["arguments"]
                for [a], [b] in zip(mine["resps"], other["resps"], strict=True):
                    if isinstance(a, str):
                        assert a == b
                    else:
                        assert a[0] == pytest.approx(b[0], abs=1e-4)
    assert "local_piqa" in "".join(two.outputs[0])
    assert not [line for line in two.outputs[1] if "Gloo" not in line]  # one speaks
    assert "programs compiled" not in two.text(1)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before a model is read", "while it is scored"])
def test_a_mistake_that_process_0_finds_ends_both(llama, benchmarks, tmp_path, when):
    if when == "before a model is read":
        arguments = [f"--model={llama}", "--tasks=local_piqa", "--task_data=nowhere"]
        reason = "There is no folder nowhere"
    else:
        from safetensors.numpy import load_file, save_file

        shutil.copytree(llama, broken := tmp_path / "broken")
        tensors = load_file(broken / "model.safetensors")
        tensors["lm_head.weight"] = np.full_like(tensors["lm_head.weight"], 3e38)  # it overflows
        save_file(tensors, broken / "model.safetensors", {"format": "pt"})
        arguments = command((broken,), benchmarks, tmp_path / "out")
        reason = "scores are not numbers (NaN)"
    with Processes(EVAL, arguments, 2) as run:
        run.finish(2, 2)
        assert reason in run.text(0)
        assert "Process 0 on " in run.text(1)
        assert reason in run.text(1)
