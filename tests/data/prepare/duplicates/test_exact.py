"""Exact duplicates against a plain dictionary, over any cut of the corpus into units."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.duplicates import exact

from ...corpora import make_config

TEXTS = st.lists(st.lists(st.sampled_from(["a", "b", "c b", "ä", "", "a\n", "\n\nx y z"]),
                          max_size=12), min_size=1, max_size=5)
PAGES = st.text(st.sampled_from("ab \n\r\t"), max_size=60)


def repeats(units, folder, config, of_parts, count):
    """The repeated parts of each document of each unit, as the functions find them."""
    for number, texts in enumerate(units):
        writer = exact.Writer(config, of_parts)
        for text in texts:
            writer.add(text)
        writer.save(folder / f"index-{number}")
    sources = [folder / f"index-{number}" for number in range(len(units))]
    for index in range(count):
        exact.repeated(sources, index, count, folder / f"found-{index}")
    files = [folder / f"found-{index}" for index in range(count)]
    return [exact.of_unit(files, number) for number in range(len(units))]


@settings(deadline=None, max_examples=60)
@given(units=TEXTS, count=st.sampled_from([1, 2, 16]))
def test_all_but_the_first_of_equal_documents(units, count, tmp_path_factory):
    seen, expected = set(), []
    for texts in units:
        expected.append({})
        for number, text in enumerate(texts):
            if text in seen:
                expected[-1][number] = {0}
            seen.add(text)
    folder = tmp_path_factory.mktemp("exact")
    assert repeats(units, folder, exact.Settings(), False, count) == expected


@settings(deadline=None, max_examples=60)
@given(units=st.lists(st.lists(PAGES, max_size=6), min_size=1, max_size=3),
       parts=st.sampled_from(["line", "paragraph"]), least=st.integers(1, 4))
def test_all_but_the_first_of_equal_parts(units, parts, least, tmp_path_factory):
    config = exact.Settings(parts=parts, min_characters=least)
    seen, expected = set(), []
    for texts in units:
        expected.append([])
        for text in texts:
            kept = ""
            for part in exact.split_parts(text, parts):
                content = part.strip()
                if len(content) < least or content not in seen:
                    kept += part
                if len(content) >= least:
                    seen.add(content)
            expected[-1].append(kept)
    found = repeats(units, tmp_path_factory.mktemp("exact"), config, True, 2)
    for texts, parts_of, kept in zip(units, found, expected, strict=True):
        without = exact.cutter(config, parts_of)
        assert [without(number, text) for number, text in enumerate(texts)] == kept


@given(text=PAGES, parts=st.sampled_from(["line", "paragraph"]))
def test_parts_are_the_text(text, parts):
    assert "".join(exact.split_parts(text, parts)) == text


def test_paragraphs_end_at_blank_lines():
    assert exact.split_parts("a\nb\n\nc\n \t\nd\n\n\n\ne", "paragraph") == [
        "a\nb\n", "\nc\n", " \t\nd\n\n\n", "\ne"]


def test_hashes_fill_all_ranges(tmp_path):
    """Of 20,000 hashes each of 4,096 ranges holds about 5, in order, none lost."""
    writer = exact.Writer(exact.Settings(), False)
    for number in range(20_000):
        writer.add(str(number))
    writer.save(tmp_path / "index")
    assert exact.hashes(tmp_path / "index") == 20_000
    arrays = exact.Arrays(tmp_path / "index")
    places = arrays.read("places").astype(int)
    assert (np.diff(places) >= 0).all() and places[0] == 0 and np.diff(places).max() < 25
    assert (np.diff(arrays.read("high").astype(float)) >= 0).all()


def test_ranges_are_powers_of_two_that_bound_the_memory():
    assert [exact.ranges(n) for n in (0, 1, exact.ENTRIES, exact.ENTRIES + 1)] == [1, 1, 1, 2]
    assert exact.ranges(5 * exact.ENTRIES) == 8
    assert exact.ranges(10**15) == exact.BUCKETS


@pytest.mark.parametrize("fields, expected", [
    ({"exact__parts": "lines", "stages": ("exact",)}, r"exact.parts='lines' is unknown.*'line'"),
    ({"exact__parts": "line", "exact__min_characters": 0, "stages": ("exact",)}, "at least 1"),
    ({"exact__min_characters": 9, "stages": ("exact",)}, r"min_characters=9 has no effect: exact"),
    ({"exact__parts": "line"}, r"exact.parts='line' has no effect: the stage 'exact' does not run"),
])
def test_settings_that_cannot_work(fields, expected):
    with pytest.raises(UserError, match=expected):
        make_config(["a.txt"], **fields)
