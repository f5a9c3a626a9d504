"""Mixtures: exact shares in every prefix, and the mistakes that are refused by name."""

import dataclasses

import pytest

from jaxllm.core.errors import UserError
from jaxllm.data.config import DataConfig, SourceConfig
from jaxllm.data.loader import TrainingData
from jaxllm.data.mixture import WeightedTurns


def data(corpora, seed=1, length=32, batch=4, **mixture):
    sources = {name: SourceConfig(str(corpora / name), w) for name, w in mixture.items()}
    return TrainingData(
        DataConfig(sequence_length=length, global_batch_size=batch, mixture=sources), seed
    )


@pytest.mark.parametrize("weights", [
    (1.0,), (1, 1), (0.7, 0.3), (0.1, 0.9), (1, 2, 3), (0.123, 0.456, 0.421), (1e-3, 1),
    (1 / 3, 2 / 3),
])
def test_shares_are_exact_in_every_prefix(weights):
    turns, counts = WeightedTurns(weights), [0] * len(weights)
    for index in range(5000):
        source, place = turns[index]
        assert place == counts[source]  # each source's examples in order, none left out
        counts[source] += 1
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - (index + 1) * weight / sum(weights)) < len(weights)


def test_turns_are_random_access_far_out():
    turns = WeightedTurns((0.7, 0.3))
    far = 10**12
    owners = [turns[far + i][0] for i in range(1000)]
    assert owners.count(0) == 700
    assert abs(turns[far][1] - far * (0.7, 0.3)[turns[far][0]]) < 2


def test_a_small_source_repeats_and_is_reshuffled(corpora):
    mixed = data(corpora, a=0.5, b=0.5)
    small = data(corpora, b=1.0)
    epoch = len(small._examples._parent._parents[0]._parent)
    rows = [mixed.example(i) for i in range(8 * epoch)]
    names = [mixed.source_of(i) for i in range(8 * epoch)]
    assert names.count("a") == names.count("b") == 4 * epoch
    of_b = [row.inputs.tobytes() for row, name in zip(rows, names, strict=True) if name == "b"]
    assert of_b == [small.example(i).inputs.tobytes() for i in range(4 * epoch)]
    first, second = set(of_b[:epoch]), set(of_b[epoch : 2 * epoch])
    assert len(first) == epoch and first != second


def test_the_order_in_which_sources_are_named_changes_nothing(corpora):
    one, two = data(corpora, a=0.7, b=0.3), data(corpora, b=0.3, a=0.7)
    assert one.fingerprint == two.fingerprint
    assert all((one.example(i).inputs == two.example(i).inputs).all() for i in range(50))


def test_the_fingerprint_sees_what_changes_batches_and_nothing_else(corpora):
    base = data(corpora, a=0.7, b=0.3)
    prints = {base.fingerprint}
    for other in (
        data(corpora, a=0.6, b=0.3), data(corpora, a=1.0), data(corpora, seed=2, a=0.7, b=0.3),
        data(corpora, length=33, a=0.7, b=0.3), data(corpora, batch=8, a=0.7, b=0.3),
        TrainingData(dataclasses.replace(base.config, shuffle=False), 1),
    ):
        assert other.fingerprint not in prints
        prints.add(other.fingerprint)
    alone = data(corpora, a=1.0)
    for config in (
        dataclasses.replace(alone.config, mixture_temperature=2.0), data(corpora, a=2.0).config,
    ):
        assert TrainingData(config, 1).fingerprint == alone.fingerprint  # it has all turns anyhow
    warm = dataclasses.replace(base.config, mixture_temperature=2.0)
    assert TrainingData(warm, 1).fingerprint not in prints
    same = dataclasses.replace(base.config, workers=3, prefetch=9)
    assert TrainingData(same, 1).fingerprint == base.fingerprint


def test_mistakes_are_named(corpora, tmp_path):
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"data.mixture.b.weight=.* must be a positive"):
            data(corpora, a=1.0, b=weight)
    with pytest.raises(UserError, match=r"data.mixture is empty"):
        data(corpora)
    with pytest.raises(UserError, match=r"data.mixture.other was prepared with another tokenizer "
                       r".*--config.tokenizer.path=.*a/tokenizer"):
        data(corpora, a=1.0, other=1.0)
    with pytest.raises(UserError, match=r"data.mixture.none.path='.*' holds no prepared data"
                       r".*Prepared folders near it: .*/a, .*/b"):
        data(corpora, none=1.0)
    with pytest.raises(UserError, match=r"data.mixture.b.path=.* its train split has (.*) tokens, "
                       r"fewer than the 100,001 of one window. Set data.sequence_length"):
        data(corpora, length=100_000, b=1.0)
    with pytest.raises(UserError, match=r"data.mixture.x.path is empty"):
        TrainingData(DataConfig(mixture={"x": SourceConfig()}), 1)
    with pytest.raises(UserError, match=r"seed=-1"):
        data(corpora, seed=-1, a=1.0)


def test_the_longest_window_that_the_message_names_works(corpora):
    with pytest.raises(UserError) as error:
        data(corpora, length=10**6, b=1.0)
    longest = int(str(error.value).split("to at most ")[1].split(",")[0])
    assert data(corpora, length=longest, b=1.0).example(3).weights.sum() > 0
    with pytest.raises(UserError):
        data(corpora, length=longest + 1, b=1.0)
