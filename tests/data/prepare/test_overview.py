"""The overview counts what is really there, however the input was cut, and shows no text that
could act on a terminal."""

import collections
import dataclasses
import json
import random
import re

import pytest

from jaxllm.core.errors import UserError
from jaxllm.data import tokenizers
from jaxllm.data.manifest import Amount, Groups, StageFlow, read_manifest
from jaxllm.data.prepare import overview, show
from jaxllm.data.prepare.overview import read_overview
from jaxllm.data.prepare.pipeline import prepare
from jaxllm.data.prepare.runners.local import LocalRunner

from ..corpora import make_config, quiet
from ..reference import read_stream

FIELDS = {
    "split__validation_share": 0.2, "tokenizer__vocab_size": 300, "output__block_tokens": 64,
    "stages": ("normalise", "gopher_quality", "exact", "near"), "input__source_field": "from",
    "gopher_quality__min_words": 5,
}
NASTY = "\x1b[31mred\x9b1m\u202e"


@pytest.fixture(scope="module")
def rows():
    """(source, text) of documents: 1 said 5 times, 3 twice, 2 pairs nearly the same, some short."""
    rng = random.Random(4)

    def said():
        words = ("the", "of", "and", "to", *(f"word{chr(97 + i)}" for i in range(26)))
        return " ".join(rng.choice(words) for _ in range(rng.randint(30, 300))) + "."

    texts = [said() for _ in range(60)]
    equal = [texts[0]] * 4 + texts[1:4]
    alike = [f"{text} And so on." for text in texts[10:12]]
    found = [*texts, *equal, *alike, *(["two words"] * 6)]
    rng.shuffle(found)
    return [(f"site{index % 4}", text) for index, text in enumerate(found)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("corpus")
    with (folder / "a.jsonl").open("w") as stream:
        for index, (source, text) in enumerate(rows):
            stream.write(json.dumps({"text": text, "from": source}) + "\n")
            stream.write("{oops\n" if index % 20 == 0 else "")
        stream.write('{"body": 1}\n')
    return folder


@pytest.fixture(scope="module")
def prepared(corpus):
    prepare(make_config([corpus / "a.jsonl"], **FIELDS), corpus / "out", quiet(), unit_bytes=4000)
    return corpus / "out"


def lengths_in(folder):
    """Tokens and characters of every document that is stored."""
    tokenizer, tokens, characters = tokenizers.load(folder / "tokenizer"), [], []
    for split in ("train", "validation"):
        rows = []
        for token, begins in zip(*read_stream(folder, split), strict=True):
            if begins:
                rows.append([])
            rows[-1].append(token)
        tokens += map(len, rows)
        characters += [len(tokenizer.decode(ids[:-1])) for ids in rows]
    return tokens, characters


def test_lengths_are_those_of_the_documents_that_are_stored(prepared):
    tokens, characters = lengths_in(prepared)
    found = overview.lengths(read_manifest(prepared))
    assert len(tokens) == len(characters) == sum(one.by_tokens for one in found)
    for one in found:
        assert one.by_tokens == sum(one.low <= length <= one.high for length in tokens)
        assert one.by_characters == sum(one.low <= length <= one.high for length in characters)
    assert [one.low for one in found[1:]] == [one.high + 1 for one in found[:-1]]
    assert (found[-1].by_tokens or found[-1].by_characters) and (
        found[0].by_tokens or found[0].by_characters)


def test_groups_are_counted_whole(prepared, rows):
    manifest = read_manifest(prepared)
    sizes = [n for text, n in collections.Counter(text for _, text in rows).items()
             if n > 1 and text != "two words"]
    assert sorted(sizes) == [2, 2, 2, 5]
    assert manifest.groups["exact"] == Groups(4, sum(sizes), {"4": 3, "8": 1})
    assert manifest.groups["near"] == Groups(2, 4, {"4": 2})
    dropped = {row.stage: sum(one.documents for one in row.dropped.values())
               for row in manifest.flow}
    assert dropped["exact"] == sum(sizes) - len(sizes) and dropped["near"] == 2
    assert overview.sizes(manifest.groups["exact"].sizes) == "2–3: 3, 4–7: 1"


@pytest.mark.parametrize("unit_bytes, workers", [(4000, 2), (1500, 1), (10**8, 1)])
def test_the_same_for_any_number_of_workers_and_any_cut(corpus, prepared, tmp_path, unit_bytes,
                                                        workers):
    prepare(make_config([corpus / "a.jsonl"], **FIELDS), tmp_path / "out", quiet(),
            runner=LocalRunner(workers, 0), unit_bytes=unit_bytes)
    for name in ("samples.jsonl", "clusters.jsonl", "quarantine.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (prepared / name).read_bytes()
    manifest, other = read_manifest(prepared), read_manifest(tmp_path / "out")
    if unit_bytes != 4000:  # the hash of the input is of its parts
        other = dataclasses.replace(other, inputs=manifest.inputs)
    assert other == manifest


def test_a_few_documents_of_each_reason(prepared, rows):
    seen = read_overview(prepared, samples=3)
    by_reason = {(one.stage, one.reason): one for one in seen.reasons}
    short = by_reason["gopher_quality", "short_doc"]
    assert (short.dropped.documents, len(short.samples)) == (6, 3)
    assert short.share == 6 / len(rows)
    assert {sample.text for sample in short.samples} == {"two words"}
    assert len(by_reason["near", "near_duplicate"].samples) == 2
    texts = {text for _, text in rows}
    assert len(seen.kept.samples) == 3
    assert all(any(text.startswith(sample.text) and len(text) == sample.characters
                   for text in texts) for sample in seen.kept.samples)
    assert [(one.stage, one.documents) for one in seen.groups] == [
        ("exact", 5), ("exact", 2), ("exact", 2), ("exact", 2), ("near", 2), ("near", 2)]
    assert [(one.reason, one.records, len(one.excerpts)) for one in seen.rejections] == [
        ("bad_json", 4, 3), ("no_text_field", 1, 1)]
    assert seen.missing == ()


def test_shares_of_sources(prepared, rows):
    manifest = read_manifest(prepared)
    found = overview.sources(manifest, 9)
    assert {one.name for one in found} == {f"site{index}" for index in range(4)}
    assert sum(one.share for one in found) == pytest.approx(1)
    assert [one.bytes for one in found] == sorted((one.bytes for one in found), reverse=True)
    two = overview.sources(manifest, 2)
    assert [one.name for one in two] == [found[0].name, found[1].name, "(others)"]
    assert two[2][1:] == (sum(one.documents for one in found[2:]),
                          sum(one.bytes for one in found[2:]),
                          pytest.approx(sum(one.share for one in found[2:])))


def with_languages(manifest):
    amount = Amount(8, 80, 80)
    row = StageFlow("language", amount, amount, {},
                    {"language_en": 2, "language_de": 5, "language_sw": 1, "documents_cut": 3})
    return dataclasses.replace(manifest, flow=(manifest.flow[0], row, *manifest.flow[1:]))


def test_languages_are_not_listed_as_changes(prepared):
    manifest = with_languages(read_manifest(prepared))
    assert [(one.name, one.documents, one.share) for one in overview.languages(manifest)] == [
        ("de", 5, 0.625), ("en", 2, 0.25), ("sw", 1, 0.125)]
    names = {name for _, name, _ in overview.changes(manifest)}
    assert "documents_cut" in names and not any(name.startswith("language_") for name in names)


def copied(prepared, folder, *without):
    """The files of a prepared folder that the overview reads, some of them left out."""
    folder.mkdir()
    for name in ("manifest.json", "samples.jsonl", "clusters.jsonl", "quarantine.jsonl"):
        if name not in without:
            (folder / name).write_bytes((prepared / name).read_bytes())
    return folder


def test_all_of_it_is_printed(prepared, tmp_path, capsys):
    folder = copied(prepared, tmp_path / "web")
    with_languages(read_manifest(prepared)).write(folder)
    show.show(folder, 2, quiet())
    out = capsys.readouterr().out
    for line in (
        r"gopher_quality +\d+ +\d+ +\d+\.\d %", r"gopher_quality +short_doc +6 +8\.0 %",
        r"de +5 +62\.5 % +█", r"site\d +\d+ +[\d.]+k +\d+\.\d % +█",
        r"exact +4 +11 +2–3: 3, 4–7: 1",
        r"bad_json +4\n", r"the largest group of exact: 5 documents",
        r"dropped by gopher_quality: short_doc, 6 documents \(8\.0 %\) ─+\n.*9 characters\n"
        r"  two words\n", r"kept, 60 documents", "could not be read: no_text_field",
    ):
        assert re.search(line, out), line
    assert out.count("  two words\n") == 2
    assert max(map(len, out.splitlines())) < 260


def test_no_text_can_act_on_the_terminal(prepared, tmp_path, capsys):
    folder = copied(prepared, tmp_path / "web")
    content = json.loads((folder / "manifest.json").read_text())
    content["sources"] = {NASTY + name: one for name, one in content["sources"].items()}
    (folder / "manifest.json").write_text(json.dumps(content))
    for name in ("samples.jsonl", "clusters.jsonl", "quarantine.jsonl"):
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for row in rows:
            for part in (row, *row.get("first", ())):
                part.update({key: NASTY + "\n[b]x" for key in ("id", "text", "excerpt", "source")
                             if key in part})
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    show.show(folder, 2, quiet())
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x9b\u202e") and "␛[31mred" in out and "⏎[b]x" in out


def test_counts_alone_where_the_documents_are_missing(prepared, tmp_path, capsys):
    folder = copied(prepared, tmp_path / "web", "samples.jsonl", "clusters.jsonl")
    seen = show.show(folder, 2, quiet())
    assert seen.missing == ("samples.jsonl", "clusters.jsonl")
    assert re.search(r"short_doc +6", capsys.readouterr().out)
    assert not seen.kept.samples and seen.kept.dropped.documents


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"stage": "exact"}'])
@pytest.mark.parametrize("name", ["samples.jsonl", "clusters.jsonl", "quarantine.jsonl"])
def test_a_damaged_file_is_named_with_its_line(prepared, tmp_path, name, line):
    folder = copied(prepared, tmp_path / "web")
    with (folder / name).open("r+") as stream:
        rest = stream.read()
        stream.seek(0)
        stream.write(f"{line}\n{rest}")
    with pytest.raises(UserError, match=rf"{name} is damaged in line 1"):
        read_overview(folder, 2)


@pytest.mark.parametrize("part, whole, text", [
    (0, 10, "0.0 %"), (1, 10**6, "<0.1 %"), (999_999, 10**6, "99.9 %"), (5, 5, "100.0 %"),
    (1, 8, "12.5 %"), (0, 0, "–"),
])
def test_shares_in_words(part, whole, text):
    assert overview.percent(part, whole) == text


def test_bars_grow_with_the_value_and_rare_is_not_nothing():
    bars = [show.bar(value, 1000, 22) for value in (0, 1, 500, 990, 1000)]
    assert bars[0] == "" and bars[1] == "▏" and bars[4] == "█" * 22
    assert bars[2] == "█" * 11 and len(bars[3]) == 22 != bars[3].count("█")
