"""The evaluation against a plain loop over windows and tokens."""

import json
import math
import shutil
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.core.rundir import RunDirectory, read_metrics
from jaxllm.data.sources import TokenSource
from jaxllm.evals.perplexity import comparison, evaluate_perplexity
from jaxllm.models.load import find_model
from jaxllm.models.tower import Inputs
from jaxllm.nn.compute import make_compute
from jaxllm.nn.module import bind
from tests.train.conftest import TEXT, prepare_text


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_text(tmp_path_factory.mktemp("corpus"), TEXT)


def plain_loss(workdir, data, length):
    """Mean -log p of every target, a window and a token at a time, documents kept apart."""
    model = find_model(str(workdir)).load(make_compute(), print)
    source = TokenSource(str(data), "validation")
    tokens, starts = source.slice(0, source.num_tokens)

    @jax.jit
    def log_probabilities(params, ids):
        bound = bind(model.structure, params)
        hidden = bound.hidden(Inputs(ids[None], jnp.arange(length)[None]))
        return jax.nn.log_softmax(bound.logits(hidden)[0])

    total, count = 0.0, 0
    for begin in range(0, len(tokens) - 1, length):
        end = min(begin + length, len(tokens) - 1)
        cuts = [begin, *(i for i in range(begin + 1, end) if starts[i]), end]
        for first, last in pairwise(cuts):
            row = np.zeros(length, np.int32)
            row[: last - first] = tokens[first:last]
            scores = np.asarray(log_probabilities(model.params, row), np.float64)
            for i in range(first, last):
                if not starts[i + 1]:
                    total -= scores[i - first, tokens[i + 1]]
                    count += 1
    return total / count, count


def test_equals_a_plain_loop_over_tokens(trained, data):
    [(name, record)] = evaluate_perplexity(
        [str(trained)], [str(data)], make_display(), batch_size=8
    )
    expected, count = plain_loss(trained, data, 32)
    assert name == str(trained)
    assert record["tokens"] == count
    assert record["loss"] == pytest.approx(expected, rel=1e-6)
    assert record["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    source = TokenSource(str(data), "validation")
    per_byte = source.num_tokens / source.num_bytes
    assert record["bits_per_byte"] == pytest.approx(expected / math.log(2) * per_byte, rel=1e-5)


def test_the_result_is_kept_once_in_the_run(trained, data):
    metrics = RunDirectory(str(trained)).metrics
    trainers = [r for r in read_metrics(metrics) if not r["split"].startswith("eval/")]
    for batches in (0, 1):
        evaluate_perplexity(
            [str(trained)], [str(data)], make_display(), batch_size=8, batches=batches
        )
        *others, found = read_metrics(metrics)
        assert others == trainers
        assert (found["split"], found["batches"], found["sequence_length"]) == (
            "eval/data", batches or None, 32)


def test_a_run_that_is_training_keeps_what_it_writes(trained, data):
    run = RunDirectory(str(trained))
    with run.metrics.open("a") as trainer:
        evaluate_perplexity([str(trained)], [str(data)], make_display(), batch_size=8, batches=1)
        trainer.write(json.dumps({"step": 3, "split": "later"}) + "\n")
    assert read_metrics(run.metrics)[-1]["split"] == "later"


def test_folders_of_one_name_are_told_apart(trained, data, tmp_path):
    copy = shutil.copytree(data, tmp_path / data.name)
    folders = [str(data), str(copy), f"{data}/"]
    results = evaluate_perplexity(
        [str(trained)], folders, make_display(), batch_size=8, batches=1
    )
    expected = {f"eval/{folder.parent.name}/{folder.name}" for folder in (data, copy)}
    assert len(results) == 2
    assert {record["split"] for _, record in results} == expected


def test_a_comparison_names_the_difference():
    results = [
        ("base", {"split": "eval/plays", "loss": 2.0}),
        ("base", {"split": "eval/bank", "loss": 4.0}),
        ("tuned", {"split": "eval/plays", "loss": 2.5}),
        ("tuned", {"split": "eval/bank", "loss": 3.0}),
    ]
    columns, rows = comparison(results)
    assert columns == ["data", "base", "tuned", "tuned − base"]
    assert rows == [["plays", 2.0, 2.5, "+0.5000"], ["bank", 4.0, 3.0, "-1.0000"]]


def test_rows_of_different_lengths_are_said_to_be(trained, data, tmp_path, capsys):
    other = shutil.copytree(trained, tmp_path / "other")
    saved = json.loads((other / "config.json").read_text())
    saved["config"]["data"]["sequence_length"] = 16
    (other / "config.json").write_text(json.dumps(saved))
    for length, said in ((0, True), (16, False)):
        evaluate_perplexity(
            [str(trained), str(other)], [str(data)], make_display(), batch_size=8, batches=1,
            sequence_length=length,
        )
        shown = capsys.readouterr()
        assert ("different lengths (16, 32 tokens)" in shown.out + shown.err) == said


def test_losses_of_different_tasks_have_no_difference():
    results = [
        ("runs/a", {"split": "eval/x", "loss": 2.0, "objective": "causal"}),
        ("runs/b", {"split": "eval/x", "loss": 3.0, "objective": "masked"}),
    ]
    assert comparison(results) == (["data", "a", "b"], [["x", 2.0, 3.0]])


@pytest.mark.parametrize(("section", "changes", "settings", "message"), [
    pytest.param("head", {"kind": "sequence_classification", "labels": 2}, {"batch_size": 8},
                 r"sequence_classification'.* predicts no tokens", id="no language head"),
    pytest.param("positions", {"kind": "learned", "max_length": 48}, {"sequence_length": 49},
                 r"sequence_length=49 is longer than .* 48 learned posit", id="too long rows"),
])
def test_a_model_that_cannot_score_the_rows_is_refused(
    trained, data, tmp_path, section, changes, settings, message
):
    run = RunDirectory(str(tmp_path / "run"))
    shutil.copytree(trained, run.root)
    content = run.read_config()
    content["config"]["model"][section].update(changes)
    run.config.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        evaluate_perplexity([str(run.root)], [str(data)], make_display(), **settings)


def test_mistakes_are_named(trained, data, tmp_path):
    other = prepare_text(tmp_path, TEXT, kind="char")
    with pytest.raises(UserError, match="prepared with another tokenizer"):
        evaluate_perplexity([str(trained)], [str(other)], make_display(), batch_size=8)
    with pytest.raises(UserError, match=r"no checkpoint of step 7\. Steps there: 3"):
        evaluate_perplexity([f"{trained}@7"], [str(data)], make_display(), batch_size=8)
    with pytest.raises(UserError, match="there is no"):
        evaluate_perplexity([str(tmp_path / "run")], [str(data)], make_display(), batch_size=8)
