"""What holds for every objective: shapes, hosts, epochs, options refused; and prefixes."""

import dataclasses
import time

import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.data.batch import Batch, stack
from jaxllm.data.config import (
    DataConfig,
    DenoisingConfig,
    MaskedConfig,
    PrefixConfig,
    SourceConfig,
    SpanConfig,
)
from jaxllm.data.loader import TrainingData, ValidationData
from jaxllm.data.objectives import (
    check_architecture,
    make_objective,
    objective_class,
    objectives,
    trains_on_rows,
)
from jaxllm.data.tokenizers.byte import ByteTokenizer
from jaxllm.data.tokenizers.char import CharTokenizer

from .corpora import run_prepare, sentences
from .noise import make, rows, window

PAIRS = ("span_corruption", "denoising")
STREAMS = ["causal", "denoising", "masked", "prefix_lm", "span_corruption"]
ROWS = ["classification", "seq2seq", "sft", "token_classification"]


@pytest.mark.parametrize("name", ["causal", "masked", "span_corruption", "denoising", "prefix_lm"])
@pytest.mark.parametrize("block", [True, False])
def test_rows_have_the_shapes_of_a_batch_and_are_functions_of_the_generator(name, block):
    objective = make(name, 96, block_cross_document_attention=block)
    length, encoder_length = objective.lengths
    for seed in range(40):
        n = max(1, objective.raw_length - seed * seed // 12)
        piece = window(n, seed)
        before = piece.tokens.copy()
        row, again, other = (objective.example(piece, np.random.default_rng(s)) for s in (1, 1, 2))
        np.testing.assert_array_equal(piece.tokens, before)
        for field, x, y in zip(Batch._fields, row, again, strict=True):
            np.testing.assert_array_equal(x, y)
            if x is None:
                continue
            assert x.shape == (encoder_length if field.startswith("encoder") else length,), field
            assert x.dtype == (np.float32 if field == "weights" else np.int32), field
        if name != "causal" and n > 50:
            assert any((x != y).any() for x, y in zip(row, other, strict=True) if x is not None)
        assert not row.weights[row.segment_ids == 0].any()
        assert (np.diff(np.flatnonzero(row.segment_ids == 0)) == 1).all()  # padding at the end
        if encoder_length:
            assert set(row.segment_ids) <= {0, 1} and set(row.encoder_segment_ids) <= {0, 1}
        batch = objective.joined(stack([row, other]))
        assert len(batch) == len(row) and batch.inputs.shape == (2, length)
        if name == "masked":
            np.testing.assert_array_equal(batch.segment_ids[0], row.segment_ids > 0)
        else:
            assert (batch.segment_ids is None) == (name not in PAIRS)


@pytest.mark.parametrize("name", STREAMS)
def test_an_example_of_512_tokens_takes_well_under_a_millisecond(name):
    objective = make(name, 512)
    piece, rng = window(objective.raw_length), np.random.default_rng(0)
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        objective.example(piece, rng)
        times.append(time.perf_counter() - begin)
    assert min(times) < 1e-3


def test_objectives_are_found_by_name_and_fit_an_architecture():
    assert objectives() == sorted(STREAMS + ROWS)
    assert [name for name in objectives() if trains_on_rows(name)] == ROWS
    with pytest.raises(UserError, match=r"data.objective='casual'.*Did you mean 'causal'"):
        objective_class("casual")
    for name in objectives():
        fits = objective_class(name).ARCHITECTURES
        for architecture in ("decoder", "encoder", "encoder_decoder"):
            if architecture in fits:
                check_architecture(name, architecture)
            else:
                with pytest.raises(UserError, match=r"Set data.objective to"):
                    check_architecture(name, architecture)
    with pytest.raises(UserError, match=r"'span_corruption' trains a model of architecture "
                       r"'encoder_decoder', and model.architecture='encoder'. Set data.objective "
                       r"to 'classification' or 'masked' or 'token_classification'"):
        check_architecture("span_corruption", "encoder")


@pytest.mark.parametrize(("objective", "fields", "expected"), [
    ("causal", {"masked": MaskedConfig(rate=0.3)},
     r"data.masked.rate=0.3 has no effect: data.objective='causal'.*data.objective to 'masked'"),
    ("masked", {"spans": SpanConfig(density=0.2)}, r"data.spans.density=0.2 has no effect"),
    ("masked", {"target_length": 9},
     r"data.target_length=9 has no effect.* to 'denoising' or 'seq2seq' or 'span_corruption'"),
    ("masked", {"masked": MaskedConfig(rate=0.0)}, r"data.masked.rate=0.0 must lie in \(0, 1\]"),
    ("masked", {"masked": MaskedConfig(rate=float("nan"))}, r"data.masked.rate=nan must lie"),
    ("masked", {"masked": MaskedConfig(mask_share=-0.1)}, r"mask_share=-0.1 must lie in \[0, 1\]"),
    ("masked", {"masked": MaskedConfig(random_share=0.3)}, r"random_share=0.3 are shares of the"),
    ("span_corruption", {"spans": SpanConfig(density=1.0)}, r"density=1.0 must lie in \(0, 1\)"),
    ("span_corruption", {"spans": SpanConfig(mean_length=0.5)}, r"must lie in \[1, inf\)"),
    ("span_corruption", {"target_length": 20}, r"makes targets of \d+ tokens. Set \d+, or 0"),
    ("span_corruption", {"length": 2}, r"data.sequence_length=2 is too short.*at least 3"),
    ("span_corruption", {"length": 2048}, r"needs 114 sentinels.*shorter.*tokenizer.sentinels=114"),
    ("denoising", {"denoising": DenoisingConfig(density=1.0)}, r"must lie in \[0, 1\)"),
    ("denoising", {"target_length": 127}, r"makes targets of 128 tokens"),
    ("prefix_lm", {"prefix": PrefixConfig(min_share=0.8, max_share=0.2)}, r"must not be above"),
    ("prefix_lm", {"prefix": PrefixConfig(max_share=1.5)}, r"data.prefix.max_share=1.5 must lie"),
    ("masked", {"length": 2}, r"too short for data.objective='masked': set at least 3"),
    ("masked", {"tokenizer": ByteTokenizer()}, r"needs a mask token.*config.tokenizer.mask=True"),
    ("denoising", {"tokenizer": ByteTokenizer()}, r"needs a mask token"),
    ("span_corruption", {"tokenizer": ByteTokenizer()}, r"the data has 0\. .*sentinels=100"),
    ("span_corruption", {"tokenizer": CharTokenizer("abc", False, sentinels=9)},
     r"needs an end-of-text token"),
    ("span_corruption", {"tokenizer": CharTokenizer("abc", True, sentinels=99)},
     r"no padding token for the decoder to start with. Set model.decoder_start_id, such as to 3"),
    ("masked", {"tokenizer": CharTokenizer("abc", True, mask=True),
                "masked": MaskedConfig(whole_word=True)}, r"no token of this tokenizer begins a"),
])
def test_mistakes_are_named(objective, fields, expected):
    with pytest.raises(UserError, match=expected):
        make(objective, **fields)


def test_a_tokenizer_is_loaded_only_where_it_is_read():
    for name in ("causal", "prefix_lm"):
        make_objective(DataConfig(objective=name), lambda: pytest.fail("loaded"))


@pytest.mark.parametrize("block", [True, False])
@pytest.mark.parametrize("shares", [(0.0, 1.0), (0.5, 0.5), (0.0, 0.0), (1.0, 1.0)])
def test_prefixes(block, shares):
    objective = make("prefix_lm", 256, prefix=PrefixConfig(*shares),
                     block_cross_document_attention=block)
    causal = make("causal", 256)
    found = []
    for piece, row in rows(objective, 100):
        plain = causal.example(piece, np.random.default_rng(0))
        for name in ("inputs", "targets", "positions", "segment_ids"):
            np.testing.assert_array_equal(getattr(row, name), getattr(plain, name))
        groups = row.segment_ids if block else np.ones_like(row.segment_ids)
        for segment in np.unique(groups):
            places = np.flatnonzero(groups == segment)
            flags = row.prefix[places]
            split = int(flags.sum())
            assert flags.tolist() == [1] * split + [0] * (len(places) - split)
            assert split < len(places) or len(places) == 0
            found.append(split / len(places))
            # a target is trained on where it is no prefix token
            free = np.arange(1, len(places) + 1) < split
            np.testing.assert_array_equal(
                row.weights[places], np.where(free, 0, plain.weights[places])
            )
    if shares == (0.0, 1.0) and not block:
        assert abs(np.mean(found) - 0.5) < 0.1 and min(found) < 0.1 and max(found) > 0.9
    if shares == (0.0, 0.0):
        assert max(found) == 0


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("objectives")
    (root / "a.txt").write_text("\n".join(sentences(300, 1)) + "\n")
    run_prepare(root / "a", [root / "a.txt"], tokenizer__kind="byte", input__document="line",
                tokenizer__mask=True, tokenizer__sentinels=100, output__block_tokens=100,
                split__validation_share=0.1)
    return root / "a"


def training(corpus, objective, seed=3, **fields):
    config = DataConfig(64, global_batch_size=8, objective=objective,
                        mixture={"a": SourceConfig(str(corpus))}, **fields)
    return TrainingData(config, seed)


@pytest.mark.parametrize("name", STREAMS)
def test_hosts_together_see_the_batches_of_one(corpus, name):
    whole = [training(corpus, name).batch_rows(step, range(8)) for step in (0, 9)]
    for hosts in (2, 4):
        share = 8 // hosts
        for step, batch in zip((0, 9), whole, strict=True):
            parts = [
                next(training(corpus, name).iterate(step, range(h * share, (h + 1) * share)))
                for h in range(hosts)
            ]
            for field, x, *ours in zip(Batch._fields, batch, *parts, strict=True):
                if x is not None:
                    np.testing.assert_array_equal(np.concatenate(ours), x, err_msg=field)


@pytest.mark.parametrize("name", ["masked", "span_corruption", "denoising"])
def test_epochs_see_the_text_in_other_noise(corpus, name):
    """The same window, met again, is corrupted anew."""
    data = training(corpus, name, shuffle=False)
    objective = make(name, 64)
    epoch = data.sources["a"].num_tokens // objective.raw_length
    first, again = data.example(3), training(corpus, name, shuffle=False).example(3)
    for x, y in zip(first, again, strict=True):
        np.testing.assert_array_equal(x, y)
    piece = window(objective.raw_length)
    noisy = [
        objective.example(piece, np.random.Generator(np.random.Philox(key=[3, index])))
        for index in (3, 3 + epoch)
    ]
    seen = [row.inputs if name == "masked" else row.encoder_inputs for row in noisy]
    assert (seen[0] != seen[1]).any()


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("block", [True, False])
def test_validation_is_the_same_each_time(corpus, name, block):
    config = DataConfig(48, objective=name, block_cross_document_attention=block)
    runs = [list(ValidationData(str(corpus), config).batches(4)) for _ in range(2)]
    for first, second in zip(*runs, strict=True):
        for x, y in zip(first, second, strict=True):
            np.testing.assert_array_equal(x, y)
    shapes = {tuple(None if x is None else x.shape for x in batch) for batch in runs[0]}
    assert len(shapes) == 1
    data = ValidationData(str(corpus), config)
    assert (data.bytes_per_token is None) == (name != "causal")
    assert sum(batch.weights.sum() for batch in runs[0]) > 0


def test_the_fingerprint_sees_the_objective_and_its_options(corpus):
    prints = [training(corpus, name).fingerprint for name in STREAMS]
    for name, fields in (
        ("masked", {"masked": MaskedConfig(whole_word=True)}),
        ("masked", {"masked": MaskedConfig(rate=0.16)}),
        ("span_corruption", {"spans": SpanConfig(mean_length=2.0)}),
        ("span_corruption", {"target_length": 20}),
        ("denoising", {"denoising": DenoisingConfig(permute_sentences=False)}),
        ("prefix_lm", {"prefix": PrefixConfig(max_share=0.5)}),
    ):
        prints.append(training(corpus, name, **fields).fingerprint)
    config = training(corpus, "denoising").config
    prints.append(TrainingData(config, 3, decoder_start_id=5).fingerprint)
    assert len(set(prints)) == len(prints)
    same = TrainingData(dataclasses.replace(config, workers=2), 3)
    assert same.fingerprint == training(corpus, "denoising").fingerprint


def test_the_longest_window_that_the_message_names_works(corpus):
    for name in STREAMS:
        with pytest.raises(UserError) as error:
            config = DataConfig(10**5, objective=name, spans=SpanConfig(mean_length=1000.0)
                                if name == "span_corruption" else SpanConfig(),
                                mixture={"a": SourceConfig(str(corpus))})
            TrainingData(config, 1)
        longest = int(str(error.value).split("to at most ")[1].split(",")[0])
        TrainingData(dataclasses.replace(config, sequence_length=longest), 1).example(0)
