"""lm-evaluation-harness with our scoring against its own `hf` backend on the same model."""

import json
import logging

import numpy as np
import pytest

from jaxllm.cli.main import main
from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.core.rundir import RunDirectory, read_metrics
from jaxllm.evals.harness.find import find_tasks
from jaxllm.evals.harness.run import evaluate_tasks, table
from jaxllm.evals.harness.session import Settings
from jaxllm.evals.tasks import local
from jaxllm.models.load import find_model
from jaxllm.nn.compute import make_compute
from tests.train.conftest import TEXT, make_recipe, prepare_text
from tests.train.test_loop import run

pytest.importorskip("lm_eval")
TASKS = ["local_mmlu_marketing", "local_piqa", "local_copa", "local_bbh_navigate"]


@pytest.fixture(scope="module")
def ours(llama):
    from jaxllm.evals.harness.adapter import JaxLM

    saved = find_model(str(llama))
    return JaxLM(
        saved.load(make_compute(), print), saved.load_tokenizer(), make_display(), batch_size=4,
        max_length=256,
    )


@pytest.fixture(scope="module")
def theirs(llama):
    pytest.importorskip("accelerate")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(llama), device="cpu", dtype="float32", batch_size=4)


def answers(lm, benchmarks, tasks=TASKS, **settings):
    from lm_eval.evaluator import evaluate

    loaded = find_tasks(tasks, task_data=str(benchmarks)).load(list(tasks))
    for task in loaded["tasks"].values():
        task.set_config(key="num_fewshot", value=settings.get("shots", 0))
        task.set_fewshot_seed(seed=1)
    chat = settings.get("chat", False)
    found = evaluate(lm=lm, task_dict=loaded, bootstrap_iters=0, apply_chat_template=chat,
                     fewshot_as_multiturn=chat)
    return found["samples"], found["results"]


@pytest.mark.parametrize("settings", [
    {"shots": 2},
    *(pytest.param(more, marks=pytest.mark.thorough) for more in ({}, {"shots": 2, "chat": True})),
], ids=["2 examples", "no examples", "as a conversation"])
def test_equals_the_hf_backend(ours, theirs, benchmarks, settings):
    mine, my_results = answers(ours, benchmarks, **settings)
    others, their_results = answers(theirs, benchmarks, **settings)
    generated = set()
    for task in TASKS:
        assert len(mine[task]) == len(others[task]) >= 6
        for one, two in zip(mine[task], others[task], strict=True):
            assert one["arguments"] == two["arguments"]  # equal prompts
            for [a], [b] in zip(one["resps"], two["resps"], strict=True):
                if isinstance(a, str):
                    assert a == b
                    generated.add(a)
                else:
                    assert a[0] == pytest.approx(b[0], abs=1e-3)
                    assert a[1] == b[1]
        metrics = {k: v for k, v in my_results[task].items() if "," in k and "stderr" not in k}
        assert metrics
        assert metrics == {name: their_results[task][name] for name in metrics}
    assert len(generated) > 1


def test_long_texts_roll_as_in_the_hf_backend(ours, theirs):
    from lm_eval.api.instance import Instance

    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(97, 123, n))) for n in (1, 40, 255, 256, 257, 900)]
    requests = [
        Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)
    ]
    np.testing.assert_allclose(
        ours.loglikelihood_rolling(requests), theirs.loglikelihood_rolling(requests), atol=1e-3)


def test_long_prompts_lose_their_beginning_as_in_the_hf_backend(ours, theirs):
    from lm_eval.api.instance import Instance

    long = "river stone " * 200
    scored = [Instance("loglikelihood", {}, (long, " blue"), 0)]
    continued = [Instance("generate_until", {}, (long, {"until": ["\n"], "max_gen_toks": 12}), 0)]
    before = ours.scorer.counts.truncated
    [(mine, _)], [(other, _)] = ours.loglikelihood(scored), theirs.loglikelihood(scored)
    assert mine == pytest.approx(other, abs=1e-3)
    assert ours.generate_until(continued) == theirs.generate_until(continued)
    assert ours.scorer.counts.truncated == before + 2


def test_a_text_without_a_context_follows_the_beginning_of_text(ours, theirs):
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood", {}, ("", "river stone"), 0)]
    [(mine, greedy)], [(other, same)] = ours.loglikelihood(requests), theirs.loglikelihood(requests)
    assert mine == pytest.approx(other, abs=1e-3)
    assert greedy == same


def test_a_run_is_scored_and_keeps_its_scores(benchmarks, tmp_path, capsys):
    recipe = make_recipe(prepare_text(tmp_path, TEXT))
    recipe.train.steps = 2
    run(recipe, tmp_path / "base")
    arguments = [
        "eval", f"--model={tmp_path / 'base'}", "--tasks=local_piqa,local_bbh_navigate",
        f"--task_data={benchmarks}", "--sequence_length=128", "--limit=4", "--batch_size=8",
        f"--output={tmp_path / 'out'}",
    ]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "programs compiled" in shown.err
    rows = [line.split() for line in shown.out.splitlines()]
    [row] = [row for row in rows if row[:2] == ["local_piqa", "acc"]]
    record = next(
        r for r in read_metrics(RunDirectory(str(tmp_path / "base")).metrics)
        if r["split"] == "eval/local_piqa"
    )
    assert record["n"] == int(row[2]) == 4
    assert f"{record['acc']:.4f}" == row[3]
    assert record["acc_low"] <= record["acc"] <= record["acc_high"]
    assert 0 <= record["ece"] <= 1
    samples = (tmp_path / "out" / "base" / "samples_local_piqa.jsonl").read_text().splitlines()
    assert np.mean([json.loads(line)["acc"] for line in samples]) == record["acc"]


@pytest.mark.parametrize("kind", [
    "similar", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("fixed", "random")),
])
def test_examples_are_chosen_as_asked_and_never_the_question(llama, benchmarks, tmp_path, kind):
    rows = [json.loads(line) for line in (benchmarks / "piqa" / "valid.jsonl").read_text()
            .splitlines()]
    names = [str(llama), f"{llama} + 2-shot {kind}"]
    found = evaluate_tasks(
        names, ["local_piqa"], make_display(), Settings(task_data=str(benchmarks)), str(tmp_path))
    assert {each.model for each in found} == {"llama", f"llama + 2-shot {kind}"}
    file = tmp_path / f"llama + 2-shot {kind}" / "samples_local_piqa.jsonl"
    shown = {}
    for sample in map(json.loads, file.read_text().splitlines()):
        asked, prompt = sample["doc"]["goal"], sample["arguments"][0][0]
        *examples, last = prompt.split("Question: ")[1:]
        goals = [example.split("\nAnswer:")[0] for example in examples]
        assert last.split("\nAnswer:")[0] == asked
        assert len(goals) == 2
        assert asked not in goals
        shown[asked] = goals
    for asked, goals in shown.items():
        others = [row["goal"] for row in rows if row["goal"] != asked]
        if kind == "fixed":
            assert goals == others[:2]
        if kind == "similar":
            score = bm25(asked, [row["goal"] for row in rows])
            best = sorted((score[goal] for goal in others), reverse=True)[:2]
            assert [score[goal] for goal in goals[::-1]] == pytest.approx(best)


def bm25(query, documents, k1=1.5, b=0.75):
    """BM25 of every document, by the formula (with Lucene's idf)."""
    words = {document: ["question", *document.split(), "answer"] for document in documents}
    mean = np.mean([len(each) for each in words.values()])
    scores = dict.fromkeys(documents, 0.0)
    for word in ["question", *query.split(), "answer"]:
        holding = sum(word in each for each in words.values())
        idf = np.log(1 + (len(words) - holding + 0.5) / (holding + 0.5))
        for document, own in words.items():
            count = own.count(word)
            scores[document] += idf * count / (count + k1 * (1 - b + b * len(own) / mean))
    return scores


@pytest.mark.thorough
def test_a_packaged_task_is_mirrored_onto_local_files(llama, tmp_path):
    """openbookqa of lm-eval: its prompts and metrics, over a file of ours."""
    folder = tmp_path / "openbookqa"
    folder.mkdir()
    rows = [
        {"question_stem": f"river {i}", "answerKey": "AB"[i % 2],
         "choices": {"label": ["A", "B"], "text": ["stone", "blue sun"]}} for i in range(5)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluate_tasks(
        [str(llama)], ["openbookqa"], make_display(), Settings(task_data=str(tmp_path)))
    columns, cells = table(found)
    assert columns == ["task", "metric", "n", "llama"]
    assert [row[:3] for row in cells] == [
        ["openbookqa", "acc", 5], ["openbookqa", "acc_norm", 5], ["openbookqa", "ece", 5]]


@pytest.mark.thorough
def test_what_needs_the_network_is_said_at_once():
    with pytest.raises(UserError, match=r"piqa reads 'baber/piqa' .*network.*DIR/piqa/.*--down"):
        find_tasks(["piqa"])


def test_an_empty_set_is_named(tmp_path):
    (tmp_path / "piqa").mkdir()
    for name in ("valid.jsonl", "valid-labels.lst"):
        (tmp_path / "piqa" / name).write_text("")
    with pytest.raises(UserError, match="the validation split of a task holds no example"):
        local.piqa(task_data=str(tmp_path))


@pytest.mark.parametrize(("arguments", "message"), [
    ({"names": ["local_pika"]}, "Did you mean 'local_piqa'"),
    ({"names": ["local_piqa"], "task_data": "nowhere"}, "There is no folder nowhere"),
])
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        find_tasks(**arguments)


def test_data_that_are_not_there_are_named(llama, tmp_path):
    for settings, message in (
        (Settings(), "--task_data=DIR"),
        (Settings(task_data=str(tmp_path)), "piqa/valid.jsonl, which is not there"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_tasks([str(llama)], ["local_piqa"], make_display(), settings)


def test_a_model_that_writes_no_text_is_refused(tiny, build, compute, llama):
    from jaxllm.evals.harness.adapter import JaxLM
    from jaxllm.models.load import Model

    structure, params = build(tiny["bert"], compute)
    model = Model(tiny["bert"], compute, structure, params, 0)
    with pytest.raises(UserError, match="generates no text"):
        JaxLM(model, find_model(str(llama)).load_tokenizer(), make_display(), batch_size=2,
              max_length=16)
