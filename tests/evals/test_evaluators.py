"""Evaluators of a run against the model's own answers, text by text."""

import dataclasses
import json
import random

import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.data import tokenizers
from jaxllm.data.config import DataConfig, SourceConfig
from jaxllm.data.loader import TrainingData
from jaxllm.evals import evaluators, metrics
from jaxllm.generate.decode import generate
from jaxllm.generate.sampling import Sampling
from jaxllm.generate.texts import text_outputs
from jaxllm.models.load import Model
from jaxllm.nn.compute import make_compute
from jaxllm.nn.config import HeadConfig
from tests.train.conftest import TEXT, prepare_text

LENGTH = 64
LABELS = ("low", "mid", "high")
TAGS = ("O", "B-PER", "I-PER", "B-LOC")
WORDS = ["Anna", "went", "to", "Rome", "and", "saw", "Peter", "there"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return prepare_text(tmp_path_factory.mktemp("corpus"), TEXT) / "tokenizer"


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(2, 6))) for _ in range(27)]


def splits_of(tmp_path, tokenizer, objective, rows, **fields):
    for name in ("train", "held"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = SourceConfig(
        str(tmp_path / "train.jsonl"), validation=str(tmp_path / "held.jsonl"))
    config = DataConfig(LENGTH, 8, objective, mixture={"rows": source}, **fields)
    data = TrainingData(config, 0, 0, str(tokenizer))
    return {"validation": data.validation()["rows"]}, data.labels


def model_of(config, build, compute, **changes):
    positions = dataclasses.replace(config.positions, max_length=LENGTH)
    config = dataclasses.replace(config, vocab_size=264, positions=positions, **changes)
    structure, params = build(config, compute, seed=3)
    return Model(config, compute, structure, params, 0)


@pytest.mark.parametrize("axes", [{}, {"data": 8}], ids=["a device", "eight"])
def test_classification_is_that_of_every_text(
    tiny, build, sharding_of, tokenizer, texts, tmp_path, axes
):
    rng = random.Random(1)
    rows = [{"text": text, "label": rng.choice(LABELS)} for text in texts]
    splits, labels = splits_of(tmp_path, tokenizer, "classification", rows)
    assert set(labels) == set(LABELS)
    head = HeadConfig("sequence_classification", labels=3, label_names=labels)
    compute = make_compute(sharding_of(**axes)) if axes else make_compute()
    model = model_of(tiny["bert"], build, compute, head=head)
    (evaluator,) = evaluators.make(["classification"], splits, 8)
    own = tokenizers.load(tokenizer)
    evaluator.check(model.config, own)
    [record] = evaluator(model, own)
    alone = model if not axes else model_of(tiny["bert"], build, make_compute(), head=head)
    mine = [labels[int(np.argmax(scores))] for scores in text_outputs(alone, own, texts)]
    true = [row["label"] for row in rows]
    assert (record["split"], record["n"]) == ("validation/classification", 27)
    for name in ("accuracy", "f1", "matthews"):
        for key, score in metrics.evaluate(name, mine, true).items():
            assert record[key] == pytest.approx(score.value)
            assert record[f"{key}_low"] == pytest.approx(score.low)


def test_entities_are_those_of_every_word(tiny, build, tokenizer, texts, tmp_path):
    pytest.importorskip("seqeval")
    rng = random.Random(2)
    rows = []
    for text in texts:
        tags = [rng.choice(("O", "B-PER", "B-LOC")) for _ in text.split()]
        rows.append({"tokens": text.split(), "tags": tags})
    rows[0] = {"tokens": ["Anna", "Peter"], "tags": ["B-PER", "I-PER"]}
    splits, labels = splits_of(tmp_path, tokenizer, "token_classification", rows)
    assert set(labels) == set(TAGS)
    head = HeadConfig(
        "token_classification", labels=len(labels), label_names=labels, pooling="none")
    model = model_of(tiny["bert"], build, make_compute(), head=head)
    own = tokenizers.load(tokenizer)
    (evaluator,) = evaluators.make(["entity_f1"], splits, 8)
    evaluator.check(model.config, own)
    [record] = evaluator(model, own)
    sentences = [" ".join(row["tokens"]) for row in rows]
    before = len(own.with_special_tokens([])[0][:1]) if own.cls_id is not None else 0
    mine = []
    for row, scores in zip(rows, text_outputs(model, own, sentences), strict=True):
        lengths = [len(word) for word in row["tokens"]]
        starts = np.cumsum([0, *(n + 1 for n in lengths[:-1])]) + before  # a token a byte
        mine.append([labels[int(np.argmax(scores[place]))] for place in starts])
    expected = metrics.evaluate("entity_f1", mine, [row["tags"] for row in rows])
    assert record["entity_f1"] == pytest.approx(expected["entity_f1"].value)
    assert record["entity_recall"] == pytest.approx(expected["entity_recall"].value)


@pytest.mark.thorough
def test_generation_is_what_the_model_writes(tiny, build, tokenizer, texts, tmp_path):
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    rows = [{"source": text, "target": text.split()[0]} for text in texts[:11]]
    splits, _ = splits_of(tmp_path, tokenizer, "seq2seq", rows, target_length=12)
    model = model_of(tiny["t5"], build, make_compute(), decoder_start_id=0)
    own = tokenizers.load(tokenizer)
    (evaluator,) = evaluators.make(["generation"], splits, 8)
    evaluator.check(model.config, own)
    [record] = evaluator(model, own)
    written = generate(
        model, own, [row["source"] for row in rows], max_new_tokens=12,
        sampling=Sampling(temperature=0.0),
    )
    expected = metrics.evaluate(
        "chrf", [each.text for each in written], [row["target"] for row in rows])
    assert (record["split"], record["n"]) == ("validation/generation", 11)
    assert record["chrf"] == pytest.approx(expected["chrf"].value)
    assert {"rouge1", "rougeLsum", "bleu", "exact_match"} <= set(record)


def test_what_cannot_be_measured_is_said_before_training(tiny, tokenizer):
    own = tokenizers.load(tokenizer)
    with pytest.raises(UserError, match="Did you mean 'classification'"):
        evaluators.make(["clasification"], {}, 8)
    for name in evaluators.names():
        with pytest.raises(UserError, match=r"eval\.evaluators.*leave it out"):
            (evaluator,) = evaluators.make([name], {}, 8)
            evaluator.check(tiny["llama"], own)
    head = HeadConfig("token_classification", labels=2, label_names=("O", "PER"))
    (evaluator,) = evaluators.make(["entity_f1"], {}, 8)
    with pytest.raises(UserError, match="'PER'"):
        evaluator.check(dataclasses.replace(tiny["bert"], head=head), own)
