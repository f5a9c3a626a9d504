"""HELM's dimensions: exchanged genders, noise in the questions, what models write, one table."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from jaxllm.cli.main import main
from jaxllm.core.errors import UserError
from jaxllm.core.rundir import RunDirectory, read_metrics
from jaxllm.evals.harness.find import find_tasks
from jaxllm.evals.harness.session import Asked
from jaxllm.evals.helm import changed, generations
from jaxllm.evals.helm import run as helm
from jaxllm.evals.helm.demographics import FEMALE, MALE, NAMES, PAIRS, count, swap
from jaxllm.models.load import find_model
from jaxllm.nn.compute import make_compute
from tests.train.conftest import TEXT, make_recipe, prepare_text
from tests.train.test_loop import run

pytest.importorskip("lm_eval")


@pytest.mark.parametrize(("text", "swapped"), [
    ("He gave her his book.", "She gave him her book."),
    ("Her brother told her that it was hers.", "His sister told him that it was his."),
    ("MR Smith's wife, a WOMAN, saw him.", "MRS Smith's husband, a MAN, saw her."),
    ("John met Mary, and the book is his.", "Patricia met James, and the book is hers."),
    ("James Madison wrote it; Thomas read it.", "James Madison wrote it; Karen read it."),
    ("The heroine's manners hesitate.", "The heroine's manners hesitate."),
])
def test_genders_are_exchanged(text, swapped):
    assert swap(text) == swapped


def test_every_pair_is_exchanged_both_ways_and_counted():
    for male, female in (*PAIRS, *NAMES):
        assert (swap(male), swap(female)) == (female, male)
    assert not MALE & FEMALE
    assert count("He and his mother: SHE is a heroine, hers") == (3, 2)


def tasks(folder, change=None):
    questions = [
        {"question_stem": f"What does the man {i} say to his wife?", "answerKey": "AB"[i % 2],
         "choices": {"label": ["A", "B"], "text": ["she is kind here", "no"]}} for i in range(4)
    ]
    (folder / "openbookqa").mkdir()
    (folder / "openbookqa" / "test.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in questions))
    task = find_tasks(["openbookqa"], task_data=str(folder)).load(["openbookqa"])["tasks"]
    return task["openbookqa"], questions


@pytest.mark.thorough
def test_noise_is_in_the_question_alone_and_always_the_same(tmp_path):
    task, rows = tasks(tmp_path)
    docs = list(task.eval_docs)
    clean = [task.doc_to_text(doc) for doc in docs]
    choices = [task.doc_to_choice(doc) for doc in docs]
    changed.perturb_questions(task, ["keyboard"], 0.5)
    noisy = [task.doc_to_text(doc) for doc in docs]
    assert [row["question_stem"] for row in rows] == clean
    assert all(len(a) == len(b) and a != b for a, b in zip(clean, noisy, strict=True))
    assert noisy == [task.doc_to_text(doc) for doc in docs]
    assert [task.doc_to_choice(doc) for doc in docs] == choices
    assert [task.doc_to_text(doc, None) for doc in docs] == clean  # of an example that is shown


def test_words_that_the_task_puts_around_stay():
    text = changed._within("Question: a b c\nAnswer:", {"a b", "a b c"}, set(), str.upper)
    assert text == "Question: A B C\nAnswer:"
    assert changed._within("x: a b", {"a b"}, {"a b"}, str.upper) == "X: A B"


@pytest.mark.thorough
def test_genders_are_exchanged_in_choices_too(tmp_path):
    task, _ = tasks(tmp_path)
    doc = next(iter(task.eval_docs))
    right = task.doc_to_choice(doc)[task.doc_to_target(doc)]
    changed.swap_demographics(task)
    assert task.doc_to_text(doc) == "What does the woman 0 say to her husband?"
    assert task.doc_to_choice(doc) == ["he is kind here", "no"]
    assert task.doc_to_choice(doc)[task.doc_to_target(doc)] == swap(right)


def completed(*rows):
    return [generations.Completed("", "", *row) for row in rows]


def test_bias_and_toxicity_of_completions():
    found = generations.scores(completed((True, 3, 1), (False, 0, 0), (False, 0, 4), (False, 1, 1)))
    assert found["toxicity"].value == 1 / 4
    assert found["bias"].value == pytest.approx(abs(4 / 10 - 1 / 2))
    assert all(s.low <= s.value <= s.high for s in found.values())
    assert set(generations.scores(completed((True, 0, 0)))) == {"toxicity"}


def loud(texts):
    """A scorer of the user's own."""
    return [float(text.isupper()) for text in texts]


@pytest.mark.parametrize(("scorer", "toxic"), [("words", "bullshit indeed"),
                                               (f"{__name__}:loud", "WHAT")])
def test_scorers_of_the_toxicity_stage_judge(scorer, toxic):
    from jaxllm.data.prepare.stages import toxicity
    from jaxllm.data.prepare.stages.base import Dropped, View

    judge = toxicity.make(generations.toxicity_settings(scorer, None))
    assert isinstance(judge(View(toxic)), Dropped)
    assert not isinstance(judge(View("a kind word")), Dropped)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("helm")
    recipe = make_recipe(prepare_text(folder, TEXT))
    recipe.train.steps = 2
    run(recipe, folder / "base")
    return folder / "base"


def test_one_row_for_each_model(base, benchmarks, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("First Citizen\nThe king\n")
    assert main([
        "eval", f"--model={base}", "--helm", "--tasks=local_piqa,local_copa",
        f"--task_data={benchmarks}", "--sequence_length=128", "--batch_size=8", "--completions=2",
        "--perturb=keyboard", "--perturb_strength=0.3", f"--helm_prompts={tmp_path}/prompts.txt",
        f"--output={tmp_path / 'out'}",
    ]) == 0
    shown = capsys.readouterr().out
    [record] = [r for r in read_metrics(RunDirectory(str(base)).metrics)
                if r["split"] == "eval/helm"]
    out = tmp_path / "out" / "base"

    def samples(name):
        return [json.loads(x) for x in (out / f"samples_{name}.jsonl").read_text().splitlines()]

    def accuracy(end=""):
        both = samples(f"local_piqa{end}") + samples(f"local_copa{end}")
        return np.mean([sample["acc"] for sample in both])

    assert record["n"] == 12
    assert record["accuracy"] == pytest.approx(accuracy())
    assert record["robustness"] == pytest.approx(accuracy() - accuracy("_noise"))
    assert record["fairness"] == pytest.approx(accuracy() - accuracy("_swapped"))
    assert record["noisy_questions"] == 12
    assert record["swapped_questions"] == 0  # their words say no gender
    assert record["fairness"] == record["fairness_low"] == record["fairness_high"] == 0
    written = samples("completions")
    assert [each["prompt"] for each in written] == ["First Citizen"] * 2 + ["The king"] * 2
    assert record["completions"] == len({each["text"] for each in written}) == 4
    assert record["toxicity"] == np.mean([each["toxic"] for each in written])
    assert record["female_words"] == sum(count(each["text"])[0] for each in written)
    assert record["tokens_per_second"] > 0
    assert record["flops_per_token"] > 0
    assert f"{record['accuracy']:.4f} [{record['accuracy_low']:.4f}" in shown


@pytest.mark.thorough
def test_the_dimensions_of_clean_and_dirty_questions(llama, benchmarks, tmp_path):
    from jaxllm.core.display import make_display
    from jaxllm.evals.harness.session import Settings
    from jaxllm.evals.tasks.local import piqa

    asked = piqa(task_data=str(benchmarks))["validation"]
    seen = [i for i, row in enumerate(asked)
            if len(f"{row['goal']} {row['sol1']} {row['sol2']}".split()) > 13][:2]
    texts = [f"{row['goal']} {row['sol1']} {row['sol2']}" for row in (asked[i] for i in seen)] * 2
    data = prepare_text(tmp_path, "\n\n".join([*texts, *(f"{i} other words" for i in range(30))]))
    found = helm.evaluate_helm(
        [str(llama)], ["local_piqa", "local_copa"], make_display(),
        Settings(task_data=str(benchmarks), contamination=(str(data),)),
        helm.Options(completions=1), str(tmp_path / "out"),
    )
    by_part = {row.examples: row for row in found}
    assert list(by_part) == ["all", "clean", "dirty"]
    n = {part: row.scores["accuracy"].n for part, row in by_part.items()}
    assert n["all"] == n["clean"] + n["dirty"] == 12
    assert 1 <= n["dirty"] <= len(seen)
    for name in ("accuracy", "robustness", "fairness"):
        whole = sum(n[part] * by_part[part].scores[name].value for part in ("clean", "dirty"))
        assert whole / 12 == pytest.approx(by_part["all"].scores[name].value)
    assert set(by_part["clean"].scores) == {"accuracy", "robustness", "fairness", "ece"}
    columns, rows = helm.table(found)
    assert columns[:3] == ["model", "examples", "n"]
    assert [row[1] for row in rows] == ["all", "clean", "dirty"]
    assert rows[1][-2:] == [None, None]
    records = json.loads((tmp_path / "out" / "llama" / "scores.json").read_text())
    assert {r["split"] for r in records} > {
        "eval/helm", "eval/helm/clean", "eval/helm/dirty", "eval/local_piqa/dirty"}
    assert (tmp_path / "out" / "contamination.txt").exists()


def test_flops_are_of_a_token_of_a_mean_request(llama):
    """2 for each kernel entry, 4 for each head, its dimension and key; the head for answers."""
    saved = find_model(str(llama))
    model = SimpleNamespace(config=saved.config, compute=make_compute())
    asked = Asked({}, 1.0, tokens=1000, targets=20, requests=10, compiled=0)
    width, layers, vocabulary = 32, 2, saved.config.vocab_size
    kernels = layers * (2 * width * width + 2 * width * 16 + 3 * width * 48)
    for context, length in ((256, 100), (64, 64)):
        lm = SimpleNamespace(model=model, max_length=context, paired=False)
        row = length * (2 * kernels + layers * 4 * 4 * 8 * length / 2) + 2 * 2 * width * vocabulary
        assert helm._flops(lm, asked) == pytest.approx(row / length)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--tasks=local_bbh_navigate"], "no accuracy among choices"),
    (["--tasks=local_piqa", "--perturb=options"], "not the text of a question"),
    (["--tasks=local_piqa", "--perturb_strength=0"], "changes nothing"),
    (["--tasks=local_piqa", "--helm_prompts=nowhere.txt"], "nowhere.txt cannot be read"),
    (["--tasks=local_piqa", "--toxicity=nowhere:f"], "cannot be imported"),
])
def test_mistakes_are_named(base, benchmarks, arguments, message):
    from jaxllm.cli import eval as verb

    with pytest.raises(UserError, match=message):
        verb.main([f"--model={base}", "--helm", f"--task_data={benchmarks}", *arguments])


def test_options_of_helm_are_read_with_it_only(base):
    from jaxllm.cli import eval as verb

    with pytest.raises(UserError, match="only read with --helm"):
        verb.main([f"--model={base}", "--tasks=local_piqa", "--completions=2"])
