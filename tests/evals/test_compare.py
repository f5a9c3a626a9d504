"""Baselines that are not tuned, beside models: passages before a question, and differences."""

import gzip
import json

import jax
import numpy as np
import pytest

from jaxllm.cli.main import main
from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.evals import bootstrap
from jaxllm.evals.harness import session
from jaxllm.evals.harness.run import evaluate_tasks
from jaxllm.evals.harness.variants import Variant, variant
from jaxllm.evals.retrieval.bm25 import Bm25
from jaxllm.evals.retrieval.passages import Passages

pytest.importorskip("lm_eval")
LINES = ["The river Aar flows through Bern.", "Basil grows in the garden.", "A stone is blue."]


@pytest.mark.parametrize(("name", "found"), [
    ("runs/a", Variant("runs/a")),
    ("runs/a + 5-shot", Variant("runs/a", 5)),
    ("runs/a + 0-shot similar", Variant("runs/a", 0, "similar")),
    ("runs/a + retrieval", Variant("runs/a", retrieval=True)),
    ("a+b:0.5 + 2-shot fixed + retrieval", Variant("a+b:0.5", 2, "fixed", True)),
])
def test_variants_are_read_and_written_alike(name, found):
    assert variant(name) == found
    assert found.model + found.suffix == name


@pytest.mark.parametrize(("name", "message"), [
    ("runs/a + 5-shot likest", "'likest' examples are unknown"),
    ("runs/a + search", "or 'retrieval', not 'search'"),
    ("runs/a + retrieval + retrieval", "once each"),
])
def test_variants_that_are_none_are_named(name, message):
    with pytest.raises(UserError, match=message):
        variant(name)


def test_passages_are_cut_and_ranked_by_shared_words(tmp_path):
    (tmp_path / "a.txt").write_text(LINES[0])
    rows = [*LINES[1:], LINES[2], " ".join(f"w{i}" for i in range(250))]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    passages = Passages(str(tmp_path), Bm25)
    assert passages.texts[:3] == LINES  # a copy is held once
    assert [len(text.split()) for text in passages.texts[3:]] == [100, 100, 50]
    aar, both, none, empty = passages.likest(
        ["Where does the Aar flow?", "blue garden", "xyzzy", ""], 5)
    assert aar[0] == LINES[0]
    assert both[:2] in ([LINES[1], LINES[2]], [LINES[2], LINES[1]])
    assert none == empty == []
    assert passages.likest(["Where does the Aar flow?"], 1) == [[LINES[0]]]


@pytest.mark.parametrize(("make", "message"), [
    (lambda folder: None, "--retrieve_from"),
    (lambda folder: (folder / "a.jsonl").write_text('{"other": "x"}\n'), "no text is there"),
])
def test_text_that_is_not_there_is_named(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        Passages(str(tmp_path), Bm25)


def test_a_damaged_file_of_passages_is_named(tmp_path):
    packed = gzip.compress(b'{"text": "a river"}\n' * 1000)
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=r"--retrieve_from: .*cut\.jsonl\.gz cannot be read to its"):
        Passages(str(tmp_path), Bm25)


def test_texts_without_a_word_are_like_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("1 + 2 = 3")
    assert Passages(str(tmp_path), Bm25).likest(["1 + 2", "a river"], 2) == [[], []]
    assert Bm25(["1 + 2", "?"]).rank(["1", "river"], 2) == [[(0, 0.0), (1, 0.0)]] * 2


def test_a_model_is_gone_when_the_next_is_read(llama, benchmarks, monkeypatch):
    held = []
    read = session.read_model

    def read_and_count(*arguments):
        opened = read(*arguments)
        own = sum(x.nbytes for x in jax.tree.leaves(opened.model.params))
        held.append(sum(x.nbytes for x in jax.live_arrays()) - own)
        return opened

    monkeypatch.setattr(session, "read_model", read_and_count)
    evaluate_tasks([str(llama)] * 3, ["local_copa"], make_display(),
                   session.Settings(task_data=str(benchmarks), limit=2))
    assert held[0] == held[1] == held[2]


def test_differences_are_of_the_same_examples():
    """A paired interval equals that of the examples' own differences."""
    rng = np.random.default_rng(0)
    a, b = rng.random(50) < 0.7, rng.random(50) < 0.5

    def score(values):
        rows = np.stack([np.asarray(values, float), np.ones(50)], axis=1)
        return bootstrap.scores(rows, lambda s: {"mean": s[:, 0] / s[:, 1]})["mean"]

    found, wanted = bootstrap.difference(score(a), score(b)), score(a.astype(float) - b)
    assert found.value == pytest.approx(wanted.value)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    other = bootstrap.scores(np.ones((3, 1)), lambda s: {"sum": s[:, 0]})["sum"]
    assert bootstrap.difference(score(a), other) is None


@pytest.mark.thorough
def test_one_table_of_what_was_asked_and_the_differences(llama, benchmarks, tmp_path, capsys):
    text = tmp_path / "text"
    text.mkdir()
    (text / "notes.txt").write_text("seven river walk garden letter sun open night stone blue")
    assert main([
        "eval", "--compare", str(llama), f"{llama} + 2-shot fixed + retrieval",
        "--tasks=local_piqa,local_bbh_navigate", f"--task_data={benchmarks}",
        f"--retrieve_from={text}", "--passages=2", f"--output={tmp_path / 'out'}",
    ]) == 0
    shown = capsys.readouterr().out
    assert "llama + 2-shot fixed + retrieval − llama" in " ".join(shown.split())
    out = tmp_path / "out"
    accuracy = {}
    for title in ("llama", "llama + 2-shot fixed + retrieval"):
        lines = (out / title / "samples_local_piqa.jsonl").read_text().splitlines()
        samples = [json.loads(line) for line in lines]
        accuracy[title] = np.mean([sample["acc"] for sample in samples])
        for sample in samples:
            prompt = sample["arguments"][0][0]
            if title == "llama":
                assert prompt.startswith("Question: ")
            else:
                assert prompt.startswith("seven river walk garden")
                assert prompt.split("\n\n")[1].startswith("Question: ")
                assert prompt.count("Question: ") == 3
    plain, shots = accuracy.values()
    assert f"{shots - plain:+.4f} [" in shown
    [record] = [r for r in json.loads((out / "llama" / "scores.json").read_text())
                if r["split"] == "eval/local_piqa"]
    curve = record["calibration"]
    assert sum(n for n, _, _ in curve) == record["n"] == 6
    assert sum(n * right for n, _, right in curve) / 6 == pytest.approx(record["acc"])
    gaps = sum(n * abs(share - right) for n, share, right in curve) / 6
    assert gaps == pytest.approx(record["ece"])


def test_passages_are_the_system_message_of_a_conversation(benchmarks, tmp_path):
    from jaxllm.evals.harness.find import find_tasks
    from jaxllm.evals.harness.retrieved import put_passages

    task = find_tasks(["local_piqa"], task_data=str(benchmarks)).load(["local_piqa"])["tasks"]
    task = task["local_piqa"]
    doc = next(iter(task.eval_docs))
    (tmp_path / "notes.txt").write_text(f"about {doc['goal']}")
    put_passages(task, Passages(str(tmp_path), Bm25), 3)

    def template(messages, add_generation_prompt):
        return json.dumps(messages)

    text = task.fewshot_context(
        doc, num_fewshot=0, apply_chat_template=True, chat_template=template)
    assert json.loads(text) == [
        {"role": "system", "content": f"about {doc['goal']}\n\n"},
        {"role": "user", "content": f"Question: {doc['goal']}\nAnswer:"},
    ]
    plain = f"about {doc['goal']}\n\nQuestion: {doc['goal']}\nAnswer:"
    assert task.fewshot_context(doc, 0) == plain


@pytest.mark.parametrize("arguments", [["+ retrieval"], ["", "--retrieve_from=x"]])
def test_retrieval_and_its_text_go_together(llama, benchmarks, arguments):
    from jaxllm.evals.harness.run import evaluate_tasks
    from jaxllm.evals.harness.session import Settings

    name = f"{llama} {arguments[0]}".strip()
    settings = Settings(task_data=str(benchmarks), retrieve_from="x" if arguments[1:] else "")
    with pytest.raises(UserError, match="go together"):
        evaluate_tasks([name], ["local_piqa"], make_display(), settings)
