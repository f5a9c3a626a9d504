"""Every metric against a library that computes it another way, on a thousand random cases."""

import itertools
import random
import warnings

import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.evals import extras, metrics
from jaxllm.evals.bootstrap import draws, scores
from jaxllm.evals.metrics import ece, numeric, squad

CASES = 1000
WORDS = ["the", "a", "cat", "sat", "on", "mat", "dog", "ran", "far", "An", "blue", ".", ",", "7"]


def point(name, predictions, references):
    """The scores of all examples, without the bootstrap."""
    metric = metrics.find(name)
    sums = metric.statistics(predictions, references).sum(axis=0)[None]
    return {key: value[0] for key, value in metric.finish(sums).items()}


def labels(rng):
    n, kinds = rng.integers(1, 40), rng.integers(1, 6)
    return rng.integers(kinds, size=n).tolist(), rng.integers(kinds, size=n).tolist()


def sentence(rng, least=0):
    return " ".join(rng.choices(WORDS, k=rng.randint(least, 12)))


def test_classification_equals_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    warnings.simplefilter("ignore")
    for _ in range(CASES):
        mine, true = labels(rng)
        assert point("accuracy", mine, true)["accuracy"] == pytest.approx(
            sklearn.accuracy_score(true, mine))
        f1 = point("f1", mine, true)
        for average in ("macro", "micro"):
            assert f1[f"{average}_f1"] == pytest.approx(
                sklearn.f1_score(true, mine, average=average, zero_division=0), abs=1e-12)
        assert point("matthews", mine, true)["matthews"] == pytest.approx(
            sklearn.matthews_corrcoef(true, mine), abs=1e-12)


def test_calibration_equals_torchmetrics():
    torch = pytest.importorskip("torch")
    calibration = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(0)
    for _ in range(CASES):
        n = rng.integers(1, 50)
        confidence = rng.random(n)
        # of two classes the chosen one has its probability, so that it is the confidence
        chosen = rng.integers(2, size=n)
        confidence = np.maximum(confidence, 1 - confidence).astype(np.float32)
        probabilities = np.zeros((n, 2), np.float32)
        probabilities[np.arange(n), chosen] = confidence
        true = rng.integers(2, size=n)
        theirs = calibration.multiclass_calibration_error(
            torch.tensor(probabilities), torch.tensor(true), num_classes=2, n_bins=ece.BINS
        )
        mine = point("ece", confidence.tolist(), (chosen == true).tolist())["ece"]
        assert mine == pytest.approx(float(theirs), abs=1e-5)


def test_the_calibration_curve_adds_up_to_the_error():
    rng = np.random.default_rng(3)
    confidence, right = rng.random(200), rng.integers(2, size=200)
    rows = ece.curve(confidence, right)
    assert sum(row["n"] for row in rows) == 200
    error = sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / 200
    assert error == pytest.approx(point("ece", confidence, right)["ece"])


def test_entities_equal_seqeval():
    seqeval = pytest.importorskip("seqeval.metrics")
    scheme = pytest.importorskip("seqeval.scheme")
    rng, tags = random.Random(0), ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    warnings.simplefilter("ignore")
    for _ in range(CASES):
        lengths = [rng.randint(1, 9) for _ in range(rng.randint(1, 4))]
        mine, true = ([rng.choices(tags, k=n) for n in lengths] for _ in range(2))
        found = point("entity_f1", mine, true)
        for kind in ("precision", "recall", "f1"):
            theirs = getattr(seqeval, f"{kind}_score")(
                true, mine, mode="strict", scheme=scheme.IOB2, zero_division=0)
            assert found[f"entity_{kind}"] == pytest.approx(float(theirs), abs=1e-12)


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
def test_translation_equals_sacrebleu(name):
    library = pytest.importorskip("sacrebleu.metrics")
    scorer = {"bleu": library.BLEU, "chrf": library.CHRF, "ter": library.TER}[name]()
    rng = random.Random(0)
    for _ in range(CASES if name != "ter" else 200):  # TER moves words about, which takes its time
        n, counts = rng.randint(1, 3), rng.randint(1, 2)
        mine = [sentence(rng) for _ in range(n)]
        true = [[sentence(rng, 1) for _ in range(counts)] for _ in range(n)]
        streams = [list(stream) for stream in zip(*true, strict=True)]
        assert point(name, mine, true)[name] == pytest.approx(
            scorer.corpus_score(mine, streams).score, abs=1e-9)
    assert "version:" in metrics.find(name).signature()


def test_rouge_equals_torchmetrics():
    pytest.importorskip("nltk")
    rouge = pytest.importorskip("torchmetrics.functional.text.rouge").rouge_score
    rng = random.Random(0)
    for _ in range(CASES):
        mine, true = sentence(rng, 1), sentence(rng, 1)
        theirs = rouge(mine, true, use_stemmer=True, rouge_keys=("rouge1", "rouge2", "rougeL"))
        found = point("rouge", [mine], [true])
        for kind in ("rouge1", "rouge2", "rougeL"):
            assert found[kind] == pytest.approx(float(theirs[f"{kind}_fmeasure"]), abs=1e-6)
        assert found["rougeLsum"] == pytest.approx(found["rougeL"])  # a single line


def test_answers_equal_torchmetrics():
    theirs_of = pytest.importorskip("torchmetrics.functional.text").squad
    rng = random.Random(0)
    for _ in range(CASES):
        n = rng.randint(1, 3)
        mine = [sentence(rng) for _ in range(n)]
        true = [[sentence(rng, 1) for _ in range(rng.randint(1, 3))] for _ in range(n)]
        theirs = theirs_of(
            [{"id": str(i), "prediction_text": text} for i, text in enumerate(mine)],
            [{"id": str(i), "answers": {"text": texts, "answer_start": [0] * len(texts)}}
             for i, texts in enumerate(true)],
        )
        found = point("squad", mine, true)
        assert 100 * found["exact_match"] == pytest.approx(float(theirs["exact_match"]), abs=1e-4)
        # torchmetrics gives 0 where nothing but articles is on both sides, SQuAD's script 1
        empty = any(not squad.normalized(text) for text in itertools.chain(mine, *true))
        if not empty:
            assert 100 * found["f1"] == pytest.approx(float(theirs["f1"]), abs=1e-4)


@pytest.mark.parametrize(("text", "strict", "flexible"), [
    ("so 4 + 5 = 9.\n#### 9", 9, 9),
    ("#### 1,000", 1000, 1000),
    ("#### $12.50", 12.5, 12.5),
    ("It is 42 apples.", None, 42),
    ("It is -7.", None, -7),
    ("#### 18 and then 3 more", 18, 3),
    ("nothing", None, None),
])
def test_numbers_are_read_by_value(text, strict, flexible):
    assert numeric.strict(text) == strict
    assert numeric.flexible(text) == flexible


def test_gsm8k_answers_are_their_own_references():
    answers = ["He eats 3.\n#### 3", "1,200 in all #### 1200"]
    assert point("numeric", ["The answer is 3.", "#### 1,200"], answers) == {
        "exact_match_strict": 0.5, "exact_match_flexible": 1.0,
    }


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews"])
def test_intervals_are_quantiles_of_scores_of_redrawn_examples(name):
    """A draw's counts, spelled out as examples, give by scikit-learn what the bootstrap took."""
    sklearn = pytest.importorskip("sklearn.metrics")
    scorers = {
        "accuracy": ("accuracy", sklearn.accuracy_score),
        "f1": ("macro_f1", lambda t, m: sklearn.f1_score(t, m, average="macro")),
        "matthews": ("matthews", sklearn.matthews_corrcoef),
    }
    key, scorer = scorers[name]
    rng = np.random.default_rng(1)
    for seed in range(10):
        mine, true = rng.integers(3, size=30), rng.integers(3, size=30)
        found = metrics.evaluate(name, mine.tolist(), true.tolist(), resamples=100, seed=seed)[key]
        drawn = []
        for counts in np.concatenate(list(draws(30, 100, seed))).astype(int):
            chosen = np.repeat(np.arange(30), counts)
            drawn.append(scorer(true[chosen], mine[chosen]))
        assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
        assert found.n == 30


def test_the_interval_of_a_mean_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(2).random(200)
    found = scores(
        np.stack([values, np.ones(200)], axis=1), lambda s: {"mean": s[:, 0] / s[:, 1]},
        resamples=5000,
    )["mean"]
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=3e-3)


def test_draws_in_parts_are_draws(monkeypatch):
    monkeypatch.setattr("jaxllm.evals.bootstrap.AT_ONCE", 64)
    parts = list(draws(10, 100, seed=0))
    assert len(parts) > 1
    assert (np.concatenate(parts).sum(axis=1) == 10).all()


def test_one_class_is_a_score_and_no_examples_are_an_error():
    assert point("matthews", [1, 1], [1, 1])["matthews"] == 0
    assert point("f1", ["a"], ["a"]) == {"macro_f1": 1, "micro_f1": 1}
    for name in metrics.names():
        with pytest.raises(UserError, match="no examples to score"):
            metrics.evaluate(name, [], [])


@pytest.mark.parametrize(("name", "mine", "true", "message"), [
    ("acuracy", [1], [1], "Did you mean 'accuracy'"),
    ("accuracy", [1], [1, 2], "1 predictions and 2 references"),
    ("ece", [1.5], [True], "1.5 is no probability"),
    ("ece", [float("nan")], [True], "nan is no probability"),
    ("entity_f1", [["O"]], [["O", "O"]], "1 predicted tags and 2 references"),
    ("entity_f1", [["X-PER"]], [["O"]], "no IOB2"),
    ("bleu", ["a", "b"], [["a"], ["b", "c"]], "different numbers of references"),
    ("numeric", ["1"], ["none"], "no number"),
])
def test_mistakes_are_named(name, mine, true, message):
    with pytest.raises(UserError, match=message):
        metrics.evaluate(name, mine, true)


def test_a_missing_library_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "seqeval", None)
    with pytest.raises(UserError, match=r"seqeval.*pip install 'jaxllm\[eval\]'"):
        extras.need("seqeval", "entity_f1")
