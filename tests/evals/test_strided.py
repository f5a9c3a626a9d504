"""Strided documents against a plain loop that predicts a token at a time."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm import samples
from jaxllm.cli.main import main
from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.core.rundir import RunDirectory, read_metrics
from jaxllm.data.sources import TokenSource
from jaxllm.evals import documents
from jaxllm.evals.language.strided import evaluate_strided, windows
from jaxllm.models.load import find_model
from jaxllm.models.tower import Inputs
from jaxllm.nn.compute import make_compute
from jaxllm.nn.module import bind
from tests.train.conftest import TEXT, prepare_text

BUNDLED = (Path(samples.__file__).parent / "tinyshakespeare" / "input.txt").read_text()[:8000]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_text(tmp_path_factory.mktemp("corpus"), BUNDLED)


def plain(workdir, texts, window, stride):
    """(nats, tokens): the document's tokens one after another, each from the context it is due."""
    saved = find_model(str(workdir))
    model, tokenizer = saved.load(make_compute(), print), saved.load_tokenizer()

    @jax.jit
    def log_probabilities(params, ids, place):
        bound = bind(model.structure, params)
        hidden = bound.hidden(Inputs(ids[None], jnp.arange(window)[None]))
        return jax.nn.log_softmax(bound.logits(hidden)[0, place])

    nats, count = 0.0, 0
    for text in texts:
        ids = tokenizer.encode(text)
        row = [tokenizer.bos_id, *ids]
        for i, token in enumerate(ids):
            if i < window:
                begin = 0
            else:  # the window that first reaches past token i, or the document's last one
                end = min(window + stride * ((i - window) // stride + 1), len(ids))
                begin = end - window
            context = np.zeros(window, np.int32)
            context[: i + 1 - begin] = row[begin : i + 1]
            nats -= float(log_probabilities(model.params, context, i - begin)[token])
            count += 1
    return nats, count


def test_equals_a_loop_over_tokens(trained, data):
    source = TokenSource(str(data), "validation")
    texts = list(documents.documents(source, source.load_tokenizer()))
    [found] = evaluate_strided([str(trained)], [str(data)], make_display(), stride=10, batch_size=8)
    nats, count = plain(trained, texts, 32, 10)
    size, words = sum(len(t.encode()) for t in texts), sum(len(t.split()) for t in texts)
    assert (found.tokens, found.documents) == (count, len(texts))
    value = {name: score.value for name, score in found.scores.items()}
    assert value["loss"] == pytest.approx(nats / count, rel=1e-6)
    assert value["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert value["word_perplexity"] == pytest.approx(math.exp(nats / words), rel=1e-4)
    assert value["byte_perplexity"] == pytest.approx(math.exp(nats / size), rel=1e-5)
    assert value["bits_per_byte"] == pytest.approx(nats / size / math.log(2), rel=1e-6)
    assert found.scores["loss"].low < value["loss"] < found.scores["loss"].high


def test_every_token_is_scored_once_with_the_longest_context():
    for n in (1, 5, 8, 9, 20, 23):
        for stride in (1, 3, 8):
            ids, scored = list(range(100, 100 + n)), []
            for context, continuation in windows(ids, 7, 8, stride):
                scored += continuation
                tokens = [*context, *continuation]
                assert len(tokens) <= 9
                last = ids.index(tokens[-1]) + 2
                assert tokens == [7, *ids][last - len(tokens) : last]  # as in the document
                first = ids.index(continuation[0])
                assert len(context) >= min(first + 1, 8 - stride + 1)
            assert scored == ids


def test_documents_are_those_that_were_prepared(data, monkeypatch):
    source = TokenSource(str(data), "train")
    tokenizer = source.load_tokenizer()
    whole = list(documents.documents(source, tokenizer))
    assert len(whole) == source.num_documents
    assert all(text.strip() in BUNDLED for text in whole)
    assert sum(len(text.encode()) for text in whole) == source.num_bytes
    monkeypatch.setattr(documents, "READ", 37)
    assert list(documents.documents(source, tokenizer)) == whole


def test_another_tokenizers_data_give_the_same_bits_per_byte(trained, data, tmp_path):
    """The same text, prepared with another tokenizer: the model's own encodes it."""
    other = prepare_text(tmp_path, BUNDLED, kind="char")
    [one], [two] = (
        evaluate_strided([str(trained)], [str(folder)], make_display(), stride=16, batch_size=8)
        for folder in (data, other)
    )
    assert two.scores["bits_per_byte"].value == pytest.approx(one.scores["bits_per_byte"].value)
    assert two.tokens == one.tokens


def test_the_verb_shows_every_source_and_all(trained, data, tmp_path, capsys):
    other = prepare_text(tmp_path / "plain", TEXT)
    other = other.rename(other.with_name("lines"))
    assert main([
        "eval", f"--model={trained}", f"--data={data},{other}", "--stride=16", "--batch_size=8",
    ]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if "[" in line][:3] == [
        "data", "lines", "all"]
    records = read_metrics(RunDirectory(str(trained)).metrics)
    found = {r["split"]: r for r in records if r["split"].endswith("/strided")}
    assert set(found) >= {"eval/data/strided", "eval/lines/strided", "eval/all/strided"}
    tokens = [found[f"eval/{name}/strided"]["tokens"] for name in ("data", "lines", "all")]
    assert tokens[0] + tokens[1] == tokens[2]


@pytest.mark.parametrize(("settings", "message"), [
    ({"stride": 33}, "--stride=33 .* at most the window, which has 32"),
    ({"stride": 0}, "--stride=0"),
])
def test_mistakes_are_named(trained, data, settings, message):
    with pytest.raises(UserError, match=message):
        evaluate_strided([str(trained)], [str(data)], make_display(), **settings)
