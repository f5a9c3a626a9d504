"""Near-duplicates: as a plain comparison of all pairs finds them, in any number of parts."""

import dataclasses
import hashlib
import itertools
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.duplicates import near, near_index
from jaxllm.data.prepare.store import Arrays

from .near_reference import (
    all_pairs,
    roots_of,
    scenes,
    shingle_set,
    similarity,
    statements,
    with_changes,
)

SETTINGS = near.Settings()
EXACT = near.Settings(bands=64, rows=2)  # finds practically every pair of 0.7


class Corpus:
    """Texts, their index on disk and what was read back."""

    def __init__(self, folder, texts, settings=SETTINGS, units=1):
        self.all, self.settings, self.read = texts, settings, []
        paths = [folder / f"unit-{unit}-of-{units}" for unit in range(units)]
        for unit, path in enumerate(paths):
            writer = near.Writer(settings)
            for text in texts[len(texts) * unit // units : len(texts) * (unit + 1) // units]:
                writer.add(text)
            writer.save(path)
        self.index = near.Sidecars(paths, settings)

    def texts(self, numbers):
        assert (np.diff(numbers) > 0).all()
        self.read += numbers.tolist()
        return [self.all[number] for number in numbers]

    def duplicates(self, parts=1):
        return [near.duplicates(self.index, part, parts, self.texts, self.settings)
                for part in range(parts)]

    def pairs(self, parts=1):
        return {tuple(pair) for some in self.duplicates(parts) for pair in some.tolist()}

    def roots(self):
        return near.clusters(self.duplicates(), self.index.documents)

    def drops(self, *ends):
        found = near.drops(self.roots(), self.index, self.texts, self.settings, *ends)
        return found.tolist()


@pytest.fixture(scope="module")
def family():
    """40 scenes, each with copies of 1 to 12 changed words: similarities from 0.3 to 0.95."""
    originals = scenes(40)
    copies = [with_changes(text, 1 + (number + k) % 12, seed=100 * k + number)
              for number, text in enumerate(originals) for k in range(5)]
    return originals + copies


# --- signatures ----------------------------------------------------------------------------------


def test_equal_hashes_estimate_the_similarity_as_independent_draws_do(family):
    sets = [shingle_set(text) for text in family]
    values = near.signatures(family, dataclasses.replace(SETTINGS, bands=64, rows=8))
    scores = []
    for original in range(40):
        for copy in range(40 + 5 * original, 45 + 5 * original):
            exact = similarity(sets[original], sets[copy])
            error = np.mean(values[original] == values[copy]) - exact
            scores.append(error / np.sqrt(exact * (1 - exact) / 512))
    assert abs(statistics.mean(scores)) < 4 / np.sqrt(200)
    assert 0.85 < statistics.stdev(scores) < 1.15


def test_short_texts_are_estimated_as_well_as_long_ones():
    left, right = "one two three four five six seven", "one two three four five six eight"
    values = near.signatures([left, right], near.Settings(bands=128, rows=8))
    assert np.mean(values[0] == values[1]) == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 1024))


def test_a_signature_is_the_same_in_any_batch(family):
    together = near.signatures([*family, "", *family[:3]], SETTINGS)
    assert together.dtype == np.uint32 and together.shape == (len(family) + 4, 140)
    np.testing.assert_array_equal(together[-3:], together[:3])
    for number in (0, 17, 200):
        np.testing.assert_array_equal(near.signature(family[number], SETTINGS), together[number])


def test_signatures_are_the_same_on_every_machine():
    values = near.signature("It was the best of times, it was the worst of times…", SETTINGS)
    keys = near.band_keys(values, SETTINGS)
    assert values[:3].tolist() == GOLDEN_VALUES
    digest = hashlib.sha256(values.astype("<u4").tobytes() + keys.astype("<u8").tobytes())
    assert digest.hexdigest()[:16] == GOLDEN_DIGEST


def test_the_seed_changes_every_hash_and_the_default_is_not_special():
    text = scenes(1)[0]
    one, two = (near.signature(text, near.Settings(seed=seed)) for seed in (1, 2))
    assert np.mean(one == two) < 0.02


def test_band_keys_are_equal_where_a_whole_band_is():
    rng = np.random.default_rng(0)
    left = rng.integers(0, 2**32, 140, np.uint32)
    right = left.copy()
    right[[0, 139]] += np.uint32(1)  # in the first and the last band
    same = near.band_keys(left, SETTINGS) == near.band_keys(right, SETTINGS)
    assert same.tolist() == [False, *[True] * 18, False]
    repeated = np.tile(left[:7], 20)
    assert len(set(near.band_keys(repeated, SETTINGS).tolist())) == 20  # a band has its own keys
    swapped = repeated[::-1].copy()
    assert not (near.band_keys(repeated, SETTINGS) == near.band_keys(swapped, SETTINGS)).any()


def test_what_is_found_is_the_papers_formula():
    assert near.found(0.8, near.Settings(bands=14, rows=8)) == pytest.approx(0.924, abs=5e-4)
    assert near.found(0.8, SETTINGS) > 0.99 and near.found(0.5, SETTINGS) < 0.15
    assert near.found(1.0, SETTINGS) == 1 and near.found(0.0, SETTINGS) == 0


# --- pairs ---------------------------------------------------------------------------------------


def test_pairs_are_those_of_a_comparison_of_all_pairs(tmp_path, family):
    expected = all_pairs(family, 0.7)
    assert len(expected) > 100
    found = Corpus(tmp_path, family, EXACT).pairs()
    roots, all_roots = (roots_of(pairs, len(family)) for pairs in (found, expected))
    assert found <= expected and roots == all_roots


def test_recall_and_no_false_pair_at_the_default_settings(tmp_path, family):
    corpus = Corpus(tmp_path, family)
    roots = corpus.roots()
    assert corpus.pairs() <= all_pairs(family, 0.7)
    high = all_pairs(family, 0.8)
    assert len(high) > 40
    assert np.mean([roots[a] == roots[b] for a, b in high]) >= 0.97


@pytest.mark.parametrize("rows", [1, 2])
def test_few_hashes_only_mean_that_more_texts_are_compared(tmp_path, family, rows):
    settings = near.Settings(bands=8, rows=rows, threshold=0.6)
    corpus = Corpus(tmp_path, family, settings)
    found = corpus.pairs()
    assert len(found) > 50 and found <= all_pairs(family, 0.6)


def test_statements_are_compared_by_their_real_similarity(tmp_path):
    texts = statements()
    settings = near.Settings(bands=64, rows=2, threshold=0.5)
    found = Corpus(tmp_path, texts, settings).pairs()
    expected = all_pairs(texts, 0.5)
    assert found <= expected and roots_of(found, 117) == roots_of(expected, 117)


@pytest.mark.parametrize(("units", "parts"), [(1, 7), (5, 1), (11, 64), (300, 3)])
def test_units_and_parts_do_not_change_what_is_found(tmp_path, family, units, parts):
    one, many = Corpus(tmp_path, family), Corpus(tmp_path, family, units=units)
    np.testing.assert_array_equal(
        np.unique(np.concatenate(many.duplicates(parts)), axis=0), one.duplicates()[0]
    )
    assert many.drops() == one.drops()


def test_parts_share_out_all_keys(tmp_path, family, monkeypatch):
    corpus = Corpus(tmp_path, family, units=3)
    monkeypatch.setattr(near, "ENTRIES", 1000)
    assert corpus.index.entries == 240 * 20 and near.parts(corpus.index) == 5
    keys, numbers = zip(*(corpus.index.keys(part, 5) for part in range(5)), strict=True)
    assert np.sum([len(some) for some in keys]) == 4800
    assert (np.diff(np.concatenate(keys).astype(float)) >= 0).all()
    assert np.bincount(np.concatenate(numbers)).tolist() == [20] * 240
    expected = near.band_keys(near.signatures(family, SETTINGS), SETTINGS)
    assert set(np.concatenate(keys).tolist()) == set(expected.ravel().tolist())


def test_texts_are_read_back_a_bounded_number_at_a_time(tmp_path, family, monkeypatch):
    corpus = Corpus(tmp_path, family)
    expected = corpus.pairs()
    sizes = []
    read = corpus.texts

    def texts(numbers):
        found = read(numbers)
        sizes.append(sum(map(len, found)))
        return found

    monkeypatch.setattr(near, "CHARACTERS", 5000)
    monkeypatch.setattr(near, "PAIRS", 16)
    monkeypatch.setattr(corpus, "texts", texts)
    assert corpus.pairs() == expected
    assert len(sizes) > 5 and max(sizes) < 7000  # the last pair may go over


def test_signatures_are_read_by_number_across_units(tmp_path, family, monkeypatch):
    monkeypatch.setattr(near_index, "GAP", 3)
    monkeypatch.setattr(near_index, "SPAN", 16)
    corpus = Corpus(tmp_path, family, units=7)
    numbers = np.unique(np.random.default_rng(0).integers(0, 240, 90))
    low = (near.signatures(family, SETTINGS)[numbers] >> np.uint32(1)).astype(np.uint8)
    np.testing.assert_array_equal(corpus.index.hashes(numbers), low)
    assert corpus.index.characters(numbers).tolist() == [len(family[n]) for n in numbers]


def test_a_crowd_of_copies_costs_one_pair_a_copy(tmp_path):
    texts = [scenes(1)[0]] * 3000
    corpus = Corpus(tmp_path, texts)
    pairs = corpus.pairs()
    assert pairs == {(0, other) for other in range(1, 3000)} and not corpus.read
    assert corpus.drops() == list(range(1, 3000))


# --- short and empty documents -------------------------------------------------------------------


def test_short_documents_are_duplicates_of_the_same_words_only(tmp_path):
    texts = ["Good morning!", "good -- MORNING", "good morning all", "", "...", "morning good", ""]
    corpus = Corpus(tmp_path, texts)
    assert corpus.pairs() == {(0, 1)}
    assert corpus.index.entries == 4 * 20  # documents without words are not in the index


@pytest.mark.parametrize("texts", [[], [""], ["one"], ["", "a b c d e f"]])
def test_tiny_corpora(tmp_path, texts):
    corpus = Corpus(tmp_path, texts, units=2)
    assert near.parts(corpus.index) == 1 and corpus.pairs() == set()
    assert corpus.roots().tolist() == list(range(len(texts))) and corpus.drops() == []


# --- clusters and what is dropped ----------------------------------------------------------------

PAIRS = st.integers(1, 40).flatmap(lambda count: st.tuples(
    st.just(count),
    st.lists(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)),
                      max_size=25), max_size=4),
))


@given(PAIRS)
def test_clusters_are_those_of_a_plain_walk(drawn):
    documents, several = drawn
    arrays = [np.asarray(pairs, np.int64).reshape(-1, 2) for pairs in several]
    expected = roots_of(itertools.chain(*several), documents)
    assert near.clusters(arrays, documents).tolist() == expected


@pytest.mark.parametrize("step", [1, -1])
def test_long_chains_are_joined_quickly(step):
    documents = 300_000  # a walk along the chain would take minutes
    numbers = np.arange(documents)[::step]
    pairs = np.stack([numbers[:-1], numbers[1:]], axis=1)
    assert not near.clusters(np.array_split(pairs, 7), documents).any()


def test_what_is_dropped_is_a_near_duplicate_of_what_is_kept(tmp_path, family):
    corpus = Corpus(tmp_path, family, EXACT)
    roots, dropped = corpus.roots(), set(corpus.drops())
    sets = [shingle_set(text) for text in family]
    assert 30 < len(dropped) < 200
    for number in range(len(family)):
        kept = [other for other in range(len(family))
                if roots[other] == roots[number] and other not in dropped | {number}]
        alike = [similarity(sets[number], sets[other]) >= 0.7 for other in kept]
        assert any(alike) == (number in dropped)


def chain() -> list[str]:
    """Three texts, the middle one longest and like both others, which are not like each other."""
    words = [f"w{i}" for i in range(140)]
    texts = [" ".join(words[part]) for part in (slice(0, 104), slice(0, 122), slice(18, 122))]
    first, middle, last = map(shingle_set, texts)
    assert similarity(first, middle) > 0.8 < similarity(middle, last)
    assert similarity(first, last) < 0.7
    return texts


@pytest.mark.parametrize(("keep", "dropped"), [("first", [1]), ("last", [1]), ("longest", [0, 2])])
def test_no_document_is_dropped_for_one_that_is_dropped_itself(tmp_path, keep, dropped):
    corpus = Corpus(tmp_path, chain(), dataclasses.replace(SETTINGS, keep=keep))
    assert corpus.roots().tolist() == [0, 0, 0]
    assert corpus.drops() == dropped


@pytest.mark.parametrize(("keep", "kept"), [("first", 0), ("last", 3), ("longest", 1)])
def test_the_rule_says_which_is_kept(tmp_path, keep, kept):
    text = scenes(1)[0]
    texts = [text, text + "!!!", text + "...", text]
    corpus = Corpus(tmp_path, texts, dataclasses.replace(SETTINGS, keep=keep))
    assert corpus.drops() == sorted({0, 1, 2, 3} - {kept})


def test_ranges_of_roots_share_out_the_drops(tmp_path, family):
    corpus = Corpus(tmp_path, family)
    ranges = [corpus.drops(*ends) for ends in ((0, 2), (2, 9), (9, 30), (30, 240))]
    assert sorted(itertools.chain(*ranges)) == corpus.drops() and all(ranges)


def windows(count: int) -> list[str]:
    """Texts that slide over a longer one, so that each is like its neighbours only."""
    words = [f"w{i}" for i in range(5 * count + 100)]
    return [" ".join(words[5 * i : 5 * i + 100]) for i in range(count)]


@pytest.mark.parametrize("keep", [
    "first", *(pytest.param(keep, marks=pytest.mark.thorough) for keep in ("last", "longest")),
])
def test_a_long_chain_is_thinned_out_to_documents_that_are_not_alike(tmp_path, keep, monkeypatch):
    monkeypatch.setattr(near, "RULED_ROUNDS", 10)
    texts = windows(600)
    corpus = Corpus(tmp_path, texts, dataclasses.replace(SETTINGS, keep=keep))
    roots, dropped = corpus.roots(), set(corpus.drops())
    assert np.mean(roots == 0) > 0.95
    expected = all_pairs(texts, 0.7)
    kept = set(range(600)) - dropped
    beside = {number: {a + b - number for a, b in expected if number in (a, b)} for number in kept}
    for number in dropped:
        assert any(number in beside[other] for other in kept)
    assert len(kept) < 1.5 * 600 / 4  # in order every fourth would be kept
    close = sum(len(beside[number] & kept) for number in kept) / 2
    assert close < 0.15 * len(kept)  # some pairs of 0.73 share no band


def test_leaders_and_bands_agree_on_a_family(tmp_path, family, monkeypatch):
    corpus = Corpus(tmp_path, family, dataclasses.replace(EXACT, keep="first"))
    expected = corpus.drops()
    monkeypatch.setattr(near, "CLUSTER_LEADERS", 0)
    assert corpus.drops() == expected


# --- files and settings --------------------------------------------------------------------------


def test_the_same_texts_give_the_same_file(tmp_path, family):
    for name in ("a", "b"):
        Corpus(tmp_path, family)
        (tmp_path / "unit-0-of-1").rename(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len(Arrays(tmp_path / "a").read("hashes")) == 240 * 140
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]  # nothing half written


@pytest.mark.parametrize(("fields", "message"), [
    ({"keep": "best"}, "near.keep='best'"),
    ({"keep": "first "}, "Did you mean 'first'"),
    ({"ngram": 0}, "near.ngram=0 must lie between 1 and 64"),
    ({"bands": 0}, "near.bands=0"),
    ({"rows": -1}, "near.rows=-1"),
    ({"seed": 2**32}, "near.seed=4294967296"),
    ({"bands": 200, "rows": 6}, "set near.bands to at most 170"),
    ({"threshold": 0.0}, "near.threshold=0.0 must lie above 0"),
    ({"threshold": 1.01}, "near.threshold=1.01"),
    ({"bands": 5, "rows": 20}, "find only 0.4% of the pairs at near.threshold=0.7"),
    ({"bands": 9, "rows": 8}, "find only 41.4% of the pairs at near.threshold=0.7: "
                              "set near.bands to at least 28"),
    ({"bands": 20, "rows": 50}, "set near.rows to 7"),
])
def test_settings_out_of_range_are_refused_with_the_nearest_fix(fields, message):
    with pytest.raises(UserError) as error:
        near.check(dataclasses.replace(SETTINGS, **fields))
    assert message in str(error.value)


@pytest.mark.parametrize("fields", [{}, {"bands": 14, "rows": 8, "threshold": 0.75},
                                    {"bands": 26, "rows": 11, "threshold": 0.8}, {"ngram": 1}])
def test_usual_settings_are_accepted(fields):
    near.check(dataclasses.replace(SETTINGS, **fields))


GOLDEN_VALUES = [1889737485, 400384013, 551297297]
GOLDEN_DIGEST = "1c3219c71c98e914"
