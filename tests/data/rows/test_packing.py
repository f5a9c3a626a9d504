"""Packing is a partition of the examples in every epoch, best fit first, from the index alone."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.data.rows.examples import Collector
from jaxllm.data.rows.packing import PackedRows, Packs, best_fit


def plain_best_fit(lengths, capacity):
    """The room left in each row, by the definition: the fullest row that still fits."""
    rooms = []
    for length in lengths:
        fitting = [n for n, room in enumerate(rooms) if room >= length]
        if not fitting:
            fitting = [len(rooms)]
            rooms.append(capacity)
        rooms[min(fitting, key=rooms.__getitem__)] -= length
    return sorted(rooms)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 50), st.data())
def test_best_fit_decreasing(capacity, data):
    lengths = np.array(data.draw(st.lists(st.integers(1, capacity), min_size=1, max_size=80)))
    ordered = np.sort(lengths)[::-1]
    rows = best_fit(ordered, capacity)
    used = np.bincount(rows, weights=ordered)
    assert sorted((capacity - used).astype(int)) == plain_best_fit(ordered, capacity)
    assert used.min() > 0  # no row is empty


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1), st.data())
def test_every_epoch_has_every_example_once(capacity, shuffle, packing, seed, data):
    lengths = np.array(data.draw(st.lists(st.integers(1, capacity), min_size=1, max_size=60)))
    packs = Packs(lengths, capacity, seed, shuffle=shuffle, packing=packing)
    for epoch in range(3):
        rows = [packs[epoch * len(packs) + n].tolist() for n in range(len(packs))]
        assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
        assert max(lengths[row].sum() for row in rows) <= capacity
        if not packing:
            assert all(len(row) == 1 for row in rows)
    again = Packs(lengths, capacity, seed, shuffle=shuffle, packing=packing)
    assert [packs[n].tolist() for n in range(5)] == [again[n].tolist() for n in range(5)]


def rows_of(packs, epoch):
    return [tuple(packs[epoch * len(packs) + n]) for n in range(len(packs))]


def test_epochs_and_seeds_differ_and_the_order_of_the_files_is_kept_without_shuffling():
    lengths = np.random.default_rng(0).integers(1, 20, 300)
    packs = Packs(lengths, 64, 1, shuffle=True, packing=True)
    assert rows_of(packs, 0) != rows_of(packs, 1)
    assert set(rows_of(packs, 0)) != set(rows_of(packs, 1))  # not the order alone
    assert rows_of(packs, 0) != rows_of(Packs(lengths, 64, 2, shuffle=True, packing=True), 0)
    alone = Packs(lengths, 64, 1, shuffle=False, packing=False)
    assert rows_of(alone, 0) == rows_of(alone, 4) == [(n,) for n in range(300)]
    firsts = [min(row) for row in rows_of(Packs(lengths, 64, 1, shuffle=False, packing=True), 0)]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("capacity", [1024, 32768])
def test_a_million_examples_take_seconds_and_leave_little_padding(capacity):
    lengths = np.random.default_rng(0).lognormal(5.5, 1, 1_000_000).astype(int) + 1
    lengths = np.minimum(lengths, capacity)
    begin = time.perf_counter()
    packs = Packs(lengths, capacity, 0, shuffle=True, packing=True)
    packs[len(packs) // 2]
    assert time.perf_counter() - begin < 10
    assert 1 - lengths.sum() / capacity / len(packs) < 0.01


def test_examples_come_back_as_they_were():
    rng = np.random.default_rng(0)
    made = [{"ids": rng.integers(0, 99, n).astype(np.uint16), "on": rng.random(n) < 0.5}
            for n in rng.integers(1, 9, 40)]
    collector = Collector()
    for start in range(0, 40, 7):
        part = made[start : start + 7]
        collector.add(part, [len(one["ids"]) for one in part])
    collector.add([], [])
    examples = collector.done()
    packed = PackedRows(examples, Packs(examples.lengths, 16, 3, shuffle=True, packing=True))
    assert len(examples) == 40 and examples.lengths.tolist() == [len(one["ids"]) for one in made]
    for ours, theirs in zip((examples[n] for n in range(40)), made, strict=True):
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])
            assert ours[name].dtype == theirs[name].dtype
    seen = sum(len(packed[n]) for n in range(len(packed)))
    assert seen == 40 and len(Collector().done()) == 0
    other = examples.replaced("on", ~examples.values("on"))
    assert other.digest() != examples.digest() and (other[3]["on"] != made[3]["on"]).all()
