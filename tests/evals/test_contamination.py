"""Planted overlaps of evaluation examples and training data."""

import random

import pytest

from jaxllm.core.display import make_display
from jaxllm.data.prepare.evaluations.sets import Example
from jaxllm.evals.contamination import contamination, parts
from jaxllm.evals.harness.run import Settings, evaluate_tasks, table
from tests.train.conftest import prepare_text

RNG = random.Random(0)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def phrase(count):
    """Words that stand nowhere else."""
    return ["".join(RNG.choices(LETTERS, k=8)) for _ in range(count)]


def filler():
    return " ".join(phrase(20))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """(examples, folder): what is named after how much of it the training data hold."""
    words = {name: phrase(20) for name in (
        "whole", "thirteen", "twelve", "reworded", "common", "absent")}
    words["short"], words["short absent"] = phrase(9), phrase(9)
    words["tiny"] = phrase(5)
    documents = [
        f"{filler()} {' '.join(words['whole']).upper()}! {filler()}",
        f"{filler()} {' '.join(words['thirteen'][4:17])} {filler()}",
        f"{filler()} {' '.join(words['twelve'][4:16])} {filler()}",
        # both ends said otherwise, 13 words between them as they are
        f"{filler()} {' '.join([*phrase(3), *words['reworded'][3:16], *phrase(4)])} {filler()}",
        f"{filler()} {', '.join(words['short'])} {filler()}",
        f"{filler()} {' '.join(words['tiny'])} {filler()}",
        *(f"{filler()} {' '.join(words['common'])} {filler()}" for _ in range(20)),
        *(filler() for _ in range(60)),
    ]
    folder = prepare_text(tmp_path_factory.mktemp("corpus"), "\n\n".join(documents))
    examples = [
        Example("set", number, (" ".join(text),)) for number, text in enumerate(words.values())
    ]
    return list(words), examples, folder


def test_the_exact_ones_are_found_and_twelve_words_are_not(planted):
    names, examples, folder = planted
    both = [contamination(examples, [str(folder)], make_display(), split)
            for split in ("train", "validation")]  # the split decides where a document is
    dirty = {names[number] for found in both for _, number in found.dirty}
    # on the common phrase both splits must agree that it is one, or have few of it
    assert dirty - {"common"} == {"whole", "thirteen", "reworded", "short"}
    train = both[0]
    assert ("set", names.index("common")) not in train.dirty
    assert train.documents > 60
    for overlap in train.overlaps:
        (own,) = examples[overlap.example].fields
        assert overlap.words in own
        assert len(overlap.words.split()) == min(13, len(own.split()))
        assert overlap.words in train.text()


def test_parts_are_all_clean_and_dirty(planted):
    names, examples, folder = planted
    found = contamination(examples, [str(folder)], make_display())
    keys = [("set", number) for number in range(len(examples))]
    places = parts(keys, found)
    assert places["all"] == list(range(len(names)))
    assert sorted(places["clean"] + places["dirty"]) == places["all"]
    assert {keys[place] for place in places["dirty"]} == found.dirty


def test_scores_are_given_for_all_clean_and_dirty(llama, benchmarks, tmp_path):
    """A question of COPA, of which training data hold more than 13 words."""
    pytest.importorskip("lm_eval")
    from jaxllm.evals.tasks.local import piqa

    rows = piqa(task_data=str(benchmarks))["validation"]
    asked = next(
        row for row in rows
        if len(" ".join([row["goal"], row["sol1"], row["sol2"]]).split()) > 13)
    text = "\n\n".join([
        f"{filler()} {asked['goal']} {asked['sol1']} {asked['sol2']} {filler()}" for _ in range(3)
    ] + [filler() for _ in range(40)])
    folder = prepare_text(tmp_path, text)
    found = evaluate_tasks(
        [str(llama)], ["local_piqa"], make_display(),
        Settings(task_data=str(benchmarks), contamination=(str(folder),)), str(tmp_path / "out"),
    )
    columns, cells = table(found)
    assert columns == ["task", "metric", "examples", "n", "llama"]
    counts = {row[2]: row[3] for row in cells if row[1] == "acc"}
    assert list(counts) == ["all", "clean", "dirty"]
    assert counts["all"] == counts["clean"] + counts["dirty"] == 6
    assert counts["dirty"] >= 1
    assert "local_piqa example" in (tmp_path / "out" / "contamination.txt").read_text()
