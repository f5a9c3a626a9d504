"""Rows as the data of a run: a split, mixtures, exact resume, and what is refused."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.data.batch import Batch
from jaxllm.data.config import ColumnsConfig, DataConfig, ReplayedSource, SourceConfig
from jaxllm.data.loader import TrainingData, ValidationData, ValidationRows
from jaxllm.data.tokenizers import load

from ..corpora import run_prepare, sentences

LINES = sentences(400, 5)
PAIRS = [{"prompt": f"{n}: {line}", "completion": f" {line[::-1]}"} for n, line in enumerate(LINES)]
LABELLED = [{"text": f"{n} {line}", "label": "abc"[n % 3]} for n, line in enumerate(LINES)]


def make(folders, mixture, objective="sft", seed=7, tokenizer="byte", **fields):
    fields = {"sequence_length": 256, "global_batch_size": 4, "truncate": True, **fields}
    sources = {name: one if isinstance(one, SourceConfig) else SourceConfig(one)
               for name, one in mixture.items()}
    config = DataConfig(objective=objective, mixture=sources, **fields)
    return TrainingData(config, seed, tokenizer=str(folders[tokenizer]) if tokenizer else "")


def texts(rows, tokenizer):
    """The text of every example in the rows, in order."""
    found = []
    for row in rows:
        for segment in range(1, int(row.segment_ids.max()) + 1):
            here = row.segment_ids == segment
            ids = [row.inputs[here][0], *row.targets[here]]
            found.append(tokenizer.decode(ids))
    return found


def assert_equal(ours: Batch, theirs: Batch):
    for name, x, y in zip(Batch._fields, ours, theirs, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


def test_training_and_validation_are_a_partition_of_the_rows(folders, write):
    data = make(folders, {"a": write(PAIRS)}, sequence_length=600)
    tokenizer, (validation,) = data.load_tokenizer(), data.validation().values()
    trained = texts([data.example(n) for n in range(data.epochs["a"])], tokenizer)
    held = texts([validation.example(n) for n in range(len(validation))], tokenizer)
    whole = [row["prompt"] + row["completion"] for row in PAIRS]
    assert sorted(trained + held) == sorted(whole)
    assert 5 < len(held) < 40 and not data.remarks
    again = texts([data.example(data.epochs["a"] + n) for n in range(data.epochs["a"])], tokenizer)
    assert sorted(again) == sorted(trained) and again != trained  # the second epoch
    weights = sum(int(data.example(n).weights.sum()) for n in range(data.epochs["a"]))
    assert weights == sum(len(text[text.index(": ") :]) // 2 + 1 for text in trained)
    batches = list(validation.batches(3))
    assert sum(int(batch.weights.sum()) for batch in batches) == sum(
        int(validation.example(n).weights.sum()) for n in range(len(validation)))
    assert validation.bytes_per_token is None and isinstance(validation, ValidationRows)
    assert {batch.inputs.shape for batch in batches} == {(3, 600)}


def test_the_split_is_of_what_rows_say(folders, tmp_path, write):
    """The same rows in another order and file are held out; rows for it can be named."""
    one = make(folders, {"a": write(PAIRS)})
    (tmp_path / "back.json").write_text(json.dumps([
        {"id": n, **row} for n, row in enumerate(reversed(PAIRS + PAIRS[:50]))]))
    other = make(folders, {"a": str(tmp_path / "back.json")})
    held = [set(texts([v.example(n) for n in range(len(v))], d.load_tokenizer()))
            for d in (one, other) for v in d.validation().values()]
    assert held[0] == held[1]
    named = SourceConfig(write(PAIRS), validation=write(PAIRS[:10], "held.jsonl"))
    data = make(folders, {"a": named})
    assert len(data.sources["a"].train) == len(PAIRS)
    assert len(data.sources["a"].validation) == 10
    none = make(folders, {"a": SourceConfig(write(PAIRS), validation_share=0.0)})
    assert none.validation() == {} and len(none.sources["a"].train) == len(PAIRS)
    few = make(folders, {"a": write(PAIRS[:5])})
    assert len(few.sources["a"].validation) == 1 and len(few.sources["a"].train) == 4


@pytest.mark.parametrize("hosts", [pytest.param(1, marks=pytest.mark.thorough), 2])
def test_resumed_and_split_among_hosts_the_batches_are_the_same(folders, write, hosts):
    mixture = {"a": write(PAIRS), "b": SourceConfig(write(LABELLED, "b.jsonl"), 0.5)}
    whole = [make(folders, mixture).batch_rows(step, range(4)) for step in range(60)]
    share = 4 // hosts
    for start in (0, 37):
        streams = [make(folders, mixture).iterate(start, range(h * share, (h + 1) * share))
                   for h in range(hosts)]
        for step in range(start, start + 3):
            parts = [next(stream) for stream in streams]
            assert_equal(Batch(*(None if x[0] is None else np.concatenate(x)
                                 for x in zip(*parts, strict=True))), whole[step])


def test_workers_get_the_arrays(folders, write, tmp_path):
    file = write(PAIRS)
    data = make(folders, {"a": file}, workers=1)
    (tmp_path / "rows.jsonl").write_text("changed")  # nobody reads the file again
    again = pickle.loads(pickle.dumps(data))
    assert_equal(again.batch_rows(11, [0, 3]), data.batch_rows(11, [0, 3]))
    assert again.fingerprint == data.fingerprint
    assert_equal(next(data.iterate(5, [1])), data.batch_rows(5, [1]))


def test_the_fingerprint_sees_the_rows_and_the_options(folders, write):
    base = {"a": write(PAIRS)}
    prints = [
        make(folders, base).fingerprint, make(folders, base, seed=8).fingerprint,
        make(folders, {"a": write(PAIRS[:-60], "less.jsonl")}).fingerprint,
        make(folders, base, completion_only_loss=False).fingerprint,
        make(folders, base, packing=False).fingerprint,
        make(folders, base, tokenizer="bpe").fingerprint,
        make(folders, {"a": SourceConfig(write(PAIRS), validation_share=0.3)}).fingerprint,
        make(folders, {"a": SourceConfig(write(PAIRS), columns=ColumnsConfig(
            prompt="{{prompt}}!"))}).fingerprint,
        make(folders, {**base, "b": write(LABELLED, "b.jsonl")}).fingerprint,
        make(folders, {**base, "b": write(LABELLED, "b.jsonl")},
             mixture_temperature=2.0).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert make(folders, {"a": write(PAIRS, "moved.jsonl")}, workers=3).fingerprint == prints[0]


def test_little_padding_on_instruction_lengths(folders, write):
    rng = np.random.default_rng(0)
    rows = [{"prompt": "q" * int(a), "completion": "a" * int(b)}
            for a, b in zip(rng.lognormal(4, 0.6, 1000) + 1, rng.lognormal(5, 0.9, 1000) + 1,
                            strict=True)]
    data = make(folders, {"a": write(rows)}, sequence_length=1024)
    padding = np.mean([np.mean(data.example(n).segment_ids == 0) for n in range(data.epochs["a"])])
    alone = make(folders, {"a": write(rows)}, sequence_length=1024, packing=False)
    assert padding < 0.05 and alone.epochs["a"] > 2 * data.epochs["a"]
    assert alone.epochs["a"] == len(alone.sources["a"].train)


def test_rows_and_prepared_data_mix_by_weight(folders, write, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(LINES) + "\n")
    run_prepare(tmp_path / "text", [tmp_path / "text.txt"], tokenizer__kind="byte",
                input__document="line")
    mixture = {"chat": SourceConfig(write(PAIRS), 0.75),
               "old": SourceConfig(str(tmp_path / "text"), 0.25)}
    data = make(folders, mixture, tokenizer="")  # that of the prepared data
    origins = [data.source_of(n) for n in range(400)]
    assert origins.count("old") == 100
    plain = make(folders, {"old": str(tmp_path / "text")}, objective="causal", truncate=False,
                 tokenizer="")
    windows = {plain.example(n).inputs.tobytes() for n in range(plain.epochs["old"])}
    replayed = [data.example(n) for n in range(400) if origins[n] == "old"]
    assert {row.inputs.tobytes() for row in replayed} & windows
    assert set(data.validation()) == {"chat", "old"}
    assert data.validation()["old"].bytes_per_token is not None
    alone = ValidationData(str(tmp_path / "text"), data.config)
    causal = ValidationData(str(tmp_path / "text"), plain.config)
    assert_equal(alone.example(1), causal.example(1))
    scaled = make(folders, mixture, tokenizer="", mixture_temperature=2.0)
    assert scaled.weights == pytest.approx({"chat": 0.75, "old": 0.25})  # one task alone
    config = dataclasses.replace(data.config, objective="classification", truncate=False)
    with pytest.raises(UserError, match=r"learns labels, which prepared data have not"):
        TrainingData(config, 1)
    with pytest.raises(UserError, match=r"learns labels"):
        ValidationData(str(tmp_path / "text"), config)


def test_prepared_data_beside_pairs_are_read_as_in_pre_training(folders, write, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(LINES) + "\n")
    run_prepare(tmp_path / "text", [tmp_path / "text.txt"], tokenizer__kind="byte",
                tokenizer__sentinels=30, input__document="line")
    pairs = [{"source": row["prompt"], "target": row["completion"]} for row in PAIRS]
    data = make(folders, {"a": write(pairs), "old": str(tmp_path / "text")}, "seq2seq",
                tokenizer="", sequence_length=128)
    rows = [data.example(n) for n in range(4)]
    assert {row.inputs.shape for row in rows} == {(128,)} == {
        row.encoder_inputs.shape for row in rows}
    sentinel = load(tmp_path / "text" / "tokenizer").sentinel_ids[0]
    assert [sentinel in row.encoder_inputs for row in rows] == [
        data.source_of(n) == "old" for n in range(4)]


@pytest.mark.parametrize(("temperature", "expected"), [
    (0.0, [0.5, 0.5]), (1.0, [0.9, 0.1]), (2.0, [0.75, 0.25])])
def test_temperature_scaled_sampling(folders, write, temperature, expected):
    """T5's rates: examples ** (1/T), here of 90 and 10."""
    mixture = {name: SourceConfig(write(PAIRS[:n], f"{name}.jsonl"), validation_share=0.0)
               for name, n in (("a", 90), ("b", 10))}
    data = make(folders, mixture, packing=False, mixture_temperature=temperature)
    total = sum(data.weights.values())
    assert [data.weights[name] / total for name in "ab"] == pytest.approx(expected)
    share = np.mean([data.source_of(n) == "a" for n in range(1000)])
    assert share == pytest.approx(expected[0], abs=0.002)


def test_labels_are_those_of_the_training_rows(folders, write):
    data = make(folders, {"a": write(LABELLED)}, "classification")
    assert data.labels == ("a", "b", "c")
    tokenizer = data.load_tokenizer()
    for n in range(30):
        row = data.example(n)
        text = tokenizer.decode(row.inputs[: np.count_nonzero(row.segment_ids)])
        assert int(text.split()[0]) % 3 == row.targets[0]
    given = make(folders, {"a": write(LABELLED)}, "classification", labels=("c", "b", "a", "z"))
    assert given.labels == ("c", "b", "a", "z") and given.fingerprint != data.fingerprint
    assert make(folders, {"a": write(PAIRS)}).labels == ()


def test_the_first_row_of_a_label_is_never_held_out(folders, write):
    rows = [{"text": f"text {n}", "label": n} for n in range(60)]
    data = make(folders, {"a": SourceConfig(write(rows), validation_share=0.9)}, "classification")
    assert data.labels == tuple(map(str, range(60))) and data.validation() == {}


def test_examples_that_are_too_long_are_counted_and_cut_only_when_told(folders, write):
    rows = [*PAIRS[:40], {"prompt": "p" * 300, "completion": "c" * 400},
            {"prompt": "p" * 500, "completion": "c"}]
    rows = [{"prompt": row["prompt"][:300], "completion": row["completion"]} for row in rows[:-1]]
    rows.append({"prompt": "p" * 900, "completion": "c"})
    source = SourceConfig(write(rows), validation_share=0.0)
    with pytest.raises(UserError, match=(
        r"data.mixture.a: 2 examples are longer than a row of data.sequence_length=600 .*longest "
        r"is .*rows.jsonl, line 42, which needs 901\). Set data.sequence_length=901, or "
        r"data.truncate=True"
    )):
        make(folders, {"a": source}, sequence_length=600, truncate=False)
    data = make(folders, {"a": source}, sequence_length=600)
    assert len(data.sources["a"].train) == 41
    assert data.remarks == [
        "a: 2 of 42 rows trained on were cut to 600 tokens (1 of them left out: no target was "
        f"left); the longest has 901 ({source.path}, line 42)"]
    assert make(folders, {"a": source}, sequence_length=901, truncate=False).remarks == []


@pytest.mark.parametrize(("rows", "objective", "fields", "message"), [
    ([{"text": "a"}, {"text": ""}, {"text": None}], "sft", {},
     r"data.mixture.a: 2 rows of .*rows.jsonl cannot be used. .*rows.jsonl, line 2: the field "
     r"'text' is empty \| .*line 3: the field 'text' is missing or null. Mend them"),
    ([{"text": ""}] * 7, "sft", {}, r"7 rows .*line 1: .*empty \(6 more\)"),
    ([{"body": "a"}], "sft", {}, r"1 row .*columns are body.*data.mixture.a.columns.messages='NAM"),
    ([{"text": "a"}], "classification", {}, r"columns are text.*one of these is wanted: text \+ l"),
    ([{"text": "a"}], "sft", {"format": "alpaca"}, r"line 1: the field 'instruction' is missing"),
    ([{"text": "a"}], "sft", {"format": "txt"}, r"data.mixture.a.format='txt' is unknown. Did you"),
    ([{"text": "a"}], "sft", {"format": "text_label"}, r"a.format='text_label' is unknown"),
    ([{"text": "a"}], "sft", {"validation_share": 1.0}, r"validation_share=1.0 must be at least 0"),
    ([{"text": "a"}], "sft", {"weight": -1.0}, r"data.mixture.a.weight=-1.0 must be a positive"),
    ([{"text": "a"}], "sft", {"weight": float("nan")}, r"weight=nan must be a positive"),
    ([{"text": "a"}], "sft", {"columns": ColumnsConfig(text="body")},
     r"line 1: data.mixture.a.columns.text='body' is no column of it"),
    ([], "sft", {}, r"data.mixture.a.path=.* holds no row to train on"),
])
def test_rows_that_cannot_be_used(folders, write, rows, objective, fields, message):
    source = SourceConfig(write(rows), **fields)
    with pytest.raises(UserError, match=message):
        make(folders, {"a": source}, objective)


def test_a_label_that_is_met_in_validation_alone(folders, write):
    held = write([{"text": "t", "label": "bb"}], "held.jsonl")
    source = SourceConfig(write([{"text": "t", "label": "b"}] * 3), validation=held)
    with pytest.raises(UserError, match=(
        r"1 row of .*held.jsonl cannot be used. .*held.jsonl, line 1: label 'bb' is none that a "
        r"row that is trained on has. Did you mean 'b'"
    )):
        make(folders, {"a": source}, "classification")


def test_a_character_that_the_tokenizer_lacks_has_its_place(folders, write):
    with pytest.raises(UserError, match=r"data.mixture.a: .*rows.jsonl, line 2: The character 'ж'"):
        make(folders, {"a": write([{"text": "a"}, {"text": "ж"}])}, tokenizer="char")


def test_other_mistakes(folders, write):
    with pytest.raises(UserError, match=r"tokenizer.path is empty: rows are text"):
        make(folders, {"a": write(PAIRS)}, tokenizer="")
    with pytest.raises(UserError, match=r"data.mixture_temperature=-1.0 must be a positive number"):
        make(folders, {"a": write(PAIRS)}, mixture_temperature=-1.0)
    with pytest.raises(UserError, match=r"a.path=.*holds no prepared data|manifest"):
        make(folders, {"a": write(PAIRS)}, objective="causal", truncate=False)
    talk = [{"messages": [{"role": "user", "content": "a"}]}]
    with pytest.raises(UserError, match=r"rows.jsonl, line 1.*no chat template"):
        make(folders, {"a": write(talk)})
    with pytest.raises(UserError, match=r"data.chat_template='chat' is unknown"):
        make(folders, {"a": write(talk)}, chat_template="chat")


def test_options_of_rows_beside_prepared_data_are_refused(folders, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(LINES[:50]) + "\n")
    run_prepare(tmp_path / "text", [tmp_path / "text.txt"], tokenizer__kind="byte",
                input__document="line")
    source = SourceConfig(str(tmp_path / "text"), format="text")
    for objective in ("sft", "causal"):
        with pytest.raises(UserError, match=r"data.mixture.a.format='text' has no effect"):
            make(folders, {"a": source}, objective, tokenizer="", truncate=False)


def test_adversarial_data_are_a_share_of_the_training_rows(folders, write):
    """Prompts change, completions and rows held out do not; the rest is as without it."""
    path = write(PAIRS)
    noisy = SourceConfig(path, perturb=("swap",), perturb_share=0.25, perturb_strength=0.5)
    clean, changed = (make(folders, {"a": one}, sequence_length=600) for one in (path, noisy))
    tokenizer = clean.load_tokenizer()
    before, after, again = (
        sorted(texts([data.example(n) for n in range(data.epochs["a"])], tokenizer))
        for data in (clean, changed, make(folders, {"a": noisy}, sequence_length=600))
    )
    assert after == again
    kept = set(before) & set(after)
    assert 0.15 < 1 - len(kept) / len(before) < 0.35
    assert sorted(t[-4:] for t in before) == sorted(t[-4:] for t in after)  # of completions
    for one, two in zip(
        clean.validation()["a"].batches(4), changed.validation()["a"].batches(4), strict=True
    ):
        assert_equal(one, two)


def test_what_is_perturbed_depends_on_the_rows_and_not_on_where_they_lie(folders, write):
    """The same file elsewhere is the same data; equal rows are not changed alike."""
    options = {"perturb": ("swap",), "perturb_strength": 0.5, "validation_share": 0.0}
    rows = [PAIRS[5]] * 40
    one, two = (
        make(folders, {"a": SourceConfig(write(rows, name), **options)}, packing=False)
        for name in ("here.jsonl", "there.jsonl")
    )
    assert one.fingerprint == two.fingerprint
    found = set(texts([one.example(n) for n in range(one.epochs["a"])], one.load_tokenizer()))
    assert len(found) > 5


def test_conversations_of_sharegpt_are_perturbed(folders, write):
    talk = [{"conversations": [{"from": "human", "value": row["prompt"] * 3},
                               {"from": "gpt", "value": row["completion"]}]} for row in PAIRS[:40]]
    clean = SourceConfig(write(talk), validation_share=0.0)
    noisy = dataclasses.replace(clean, perturb=("swap",), perturb_share=1.0, perturb_strength=0.5)
    before, after = (
        make(folders, {"a": one}, packing=False, shuffle=False, chat_template="chatml",
             sequence_length=600)
        for one in (clean, noisy)
    )
    tokenizer = before.load_tokenizer()
    for n in range(40):
        (one,), (two,) = (texts([data.example(n)], tokenizer) for data in (before, after))
        assert one != two
        assert one.rpartition("assistant")[2] == two.rpartition("assistant")[2]


def test_what_is_replayed_is_named_by_the_field_that_the_user_set(folders, write, tmp_path):
    for path in (str(tmp_path / "nowhere"), ""):
        mixture = {"a": write(PAIRS), "replay": ReplayedSource(path, 0.1)}
        with pytest.raises(UserError) as told:
            make(folders, mixture)
        assert "tune.replay.path" in str(told.value) and "mixture" not in str(told.value)


def test_shuffled_options_are_shown_as_they_are_answered(folders, write):
    """The template writes the options in their new order, and the label goes along."""
    rows = [{"options": ["a", "right"], "answer": 1}, {"options": ["right", "b"], "answer": 0}] * 40
    columns = ColumnsConfig(text="{{options[0]}} or {{options[1]}}", label="answer")
    source = SourceConfig(write(rows), columns=columns, perturb=("options",), perturb_share=1.0,
                          perturb_strength=1.0)
    data = make(folders, {"a": source}, "classification", packing=True, truncate=False)
    tokenizer, orders = data.load_tokenizer(), set()
    for number in range(data.epochs["a"]):
        one = data.example(number)
        shown = tokenizer.decode(one.inputs[one.segment_ids == 1].tolist())
        orders.add(shown.index("or") < shown.index("right"))
        assert int(one.targets[0]) == int(not shown.startswith("right"))
    assert orders == {True, False}


def test_a_row_of_which_nothing_would_be_left_stays_as_it_is(folders, write):
    rows = [{"prompt": "a", "completion": f"{n:03}"} for n in range(40)]
    source = SourceConfig(write(rows), perturb=("drop",), perturb_share=1.0, perturb_strength=1.0)
    data = make(folders, {"a": source}, packing=False)
    found = texts([data.example(n) for n in range(data.epochs["a"])], data.load_tokenizer())
    assert len(found) == data.epochs["a"] and all(text.startswith("a") for text in found)


@pytest.mark.parametrize("fields, wrong", [
    ({"perturb": ("swop",)}, "data.mixture.a.perturb='swop' is unknown.*swap"),
    ({"perturb": ("swap",), "perturb_share": 1.5}, "data.mixture.a.perturb_share=1.5 must be"),
    ({"perturb_strength": 0.3}, "perturb_strength=0.3 has no effect"),
])
def test_perturbations_that_cannot_be(folders, write, fields, wrong):
    with pytest.raises(UserError, match=wrong):
        make(folders, {"a": SourceConfig(write(PAIRS), **fields)})
