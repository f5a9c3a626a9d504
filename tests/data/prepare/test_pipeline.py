"""The phases together: nothing lost or doubled after a crash, the same bytes for any cut and any
number of workers, and a flow that adds up."""

import errno
import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxllm.core.errors import Interrupted, UserError
from jaxllm.core.lock import Lock
from jaxllm.data import tokenizers
from jaxllm.data.manifest import Amount, read_manifest
from jaxllm.data.prepare.pipeline import prepare
from jaxllm.data.prepare.runners.local import LocalRunner

from ..corpora import make_config, quiet, sentences
from ..reference import read_stream

ROOT = Path(__file__).parents[3]
ALL = {
    "input__document": "line", "split__by": "cluster", "split__validation_share": 0.2,
    "tokenizer__kind": "byte", "output__block_tokens": 64, "output__tokens_per_shard": 2000,
    "stages": ("exact", "near", "decontaminate"),
}


@pytest.fixture
def corpus(tmp_path):
    """Documents of which some are equal, some nearly, and some hold an evaluation example."""
    rng = random.Random(5)
    words = [f"word{index}" for index in range(3000)]
    rows = [" ".join(rng.choices(words, k=60)) for _ in range(150)]
    question = " ".join(rng.choices(words, k=15))
    near = [row + " and more" for row in rows[:20]]
    leaked = [f"{row} {question} {row[::-1]}" for row in rows[40:50]]
    rows += [*rows[20:40], *near, *leaked]
    rng.shuffle(rows)
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("\n".join(rows[:90]) + "\n\n")
    with (folder / "b.jsonl").open("w") as stream:
        for index, row in enumerate(rows[90:]):
            stream.write(json.dumps({"text": row}) + "\n" + ("{oops\n" if index % 30 == 0 else ""))
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": question}) + "\n")
    return folder


def config_of(corpus, **fields):
    sets = {"decontaminate__sets": (str(corpus.parent / "eval.jsonl"),)}
    return make_config([corpus], **{**ALL, **sets, **fields})


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*"))
            if f.is_file()}


def texts_of(folder, split):
    tokenizer = tokenizers.load(folder / "tokenizer")
    rows = []
    for token, begins in zip(*read_stream(folder, split), strict=True):
        if begins:
            rows.append([])
        rows[-1].append(token)
    return [tokenizer.decode(ids) for ids in rows]


def test_the_flow_adds_up(corpus, tmp_path):
    manifest = prepare(config_of(corpus), tmp_path / "out", quiet(), unit_bytes=3000)
    flow = {row.stage: row for row in manifest.flow}
    assert list(flow) == ["read", "exact", "near", "decontaminate"]
    for before, after in zip(manifest.flow[:-1], manifest.flow[1:], strict=True):
        assert before.after == after.before
    for row in manifest.flow[:-1]:
        for unit in ("documents", "characters", "bytes"):
            dropped = sum(getattr(amount, unit) for amount in row.dropped.values())
            assert getattr(row.before, unit) == getattr(row.after, unit) + dropped
    assert manifest.rejected == {"bad_json": 4}
    assert flow["read"].dropped["blank"].documents == 1
    assert flow["exact"].dropped["duplicate"].documents == 20
    assert flow["near"].dropped["near_duplicate"].documents == 20
    assert flow["decontaminate"].changes["documents_cut"] == 10
    kept = manifest.flow[-1].after
    splits = manifest.splits.values()
    assert kept == Amount(sum(s.documents for s in splits), sum(s.characters for s in splits),
                          sum(s.bytes for s in splits))
    assert sum(amount.documents for amount in manifest.sources.values()) == kept.documents
    assert sum(manifest.lengths.values()) == kept.documents
    assert all(length & (length - 1) == 0 for length in map(int, manifest.lengths))
    assert read_manifest(tmp_path / "out") == manifest


def test_what_could_not_be_read_and_samples_lie_beside(corpus, tmp_path):
    prepare(config_of(corpus), tmp_path / "out", quiet(), unit_bytes=3000)
    bad = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").open()]
    lines = (corpus / "b.jsonl").read_text().splitlines()
    places = [index for index, line in enumerate(lines) if line == "{oops"]
    assert [row["id"] for row in bad] == [f"{corpus}/b.jsonl:{place}" for place in places]
    assert {row["reason"] for row in bad} == {"bad_json"}
    samples = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").open()]
    reasons = {(row["stage"], row["reason"]) for row in samples}
    assert reasons == {("exact", "duplicate"), ("near", "near_duplicate"), ("kept", "kept")}
    rows = {f"{corpus}/a.txt:{index}": row
            for index, row in enumerate((corpus / "a.txt").read_text().splitlines())}
    rows |= {f"{corpus}/b.jsonl:{index}": json.loads(line)["text"]
             for index, line in enumerate(lines) if line != "{oops"}
    dropped = [row for row in samples if row["stage"] != "kept"]
    assert len(dropped) == 16
    assert all(row["text"] == rows[row["id"]] for row in dropped)


def test_the_largest_clusters_lie_beside(tmp_path):
    rng = random.Random(2)
    one, other, third = (  # said five times, twice, and in four ways
        " ".join(f"w{rng.randrange(10**6)}" for _ in range(60)) for _ in range(3))
    texts = [one] * 5 + [other, third, other, *(f"{third} {n} times" for n in range(3))]
    texts += [" ".join(f"x{rng.randrange(10**6)}" for _ in range(60)) for _ in range(40)]
    rng.shuffle(texts)
    (tmp_path / "a.txt").write_text("\n".join(texts))
    fields = {**ALL, "stages": ("exact", "near"), "split__by": "document"}
    prepare(make_config([tmp_path / "a.txt"], **fields), tmp_path / "out", quiet(),
            unit_bytes=2000)
    rows = [json.loads(line) for line in (tmp_path / "out/clusters.jsonl").open()]
    found = [(row["stage"], row["documents"], len(row["first"])) for row in rows]
    assert found == [("exact", 5, 4), ("exact", 2, 2), ("near", 4, 4)]
    assert {one["text"] for one in rows[0]["first"]} == {one}
    places = [int(one["id"].rpartition(":")[2]) for one in rows[0]["first"]]
    assert places == [index for index, text in enumerate(texts) if text == one][:4]
    assert all(texts[int(m["id"].rpartition(":")[2])].startswith(third) for m in rows[2]["first"])


def test_any_cut_into_units_gives_the_same_tokens(corpus, tmp_path):
    results = []
    for unit_bytes in (1500, 8000, 10**8):
        out = tmp_path / str(unit_bytes)
        manifest = prepare(config_of(corpus), out, quiet(), unit_bytes=unit_bytes)
        shown = [(out / name).read_bytes() for name in ("samples.jsonl", "clusters.jsonl")]
        results.append((manifest.splits, manifest.flow, shown))
    assert results[0] == results[1] == results[2]


def test_no_cluster_straddles_the_splits(tmp_path):
    """Chains of paragraphs that differ by a word each, none dropped: a chain falls whole."""
    rng = random.Random(1)
    rows = []
    for chain in range(30):
        words = [f"c{chain}w{rng.randrange(10**6)}" for _ in range(80)]
        for _ in range(5):
            rows.append(" ".join(words))
            words[rng.randrange(80)] = f"c{chain}x{rng.randrange(10**6)}"
    rng.shuffle(rows)
    (tmp_path / "a.txt").write_text("\n".join(rows))
    fields = {**ALL, "stages": (), "split__validation_share": 0.3}
    manifest = prepare(
        make_config([tmp_path / "a.txt"], **fields), tmp_path / "out", quiet(), unit_bytes=5000)
    assert [row.stage for row in manifest.flow] == ["read"]
    chains = {split: {re.match(r"c\d+", text)[0] for text in texts_of(tmp_path / "out", split)}
              for split in ("train", "validation")}
    assert sum(len(one) for one in chains.values()) == 30 and len(chains["validation"]) > 2
    assert sum(split.documents for split in manifest.splits.values()) == 150
    fields["split__by"] = "document"
    prepare(make_config([tmp_path / "a.txt"], **fields), tmp_path / "by", quiet())
    by = [{re.match(r"c\d+", text)[0] for text in texts_of(tmp_path / "by", split)}
          for split in ("train", "validation")]
    assert by[0] & by[1]


def test_document_stages_run_in_the_order_given(tmp_path):
    lines = [f"line {index} ﬁne \x00 text" for index in range(50)]
    (tmp_path / "a.jsonl").write_text("".join(
        json.dumps({"text": line.replace("\x00", "\u0007")}) + "\n" for line in lines))
    fields = {"stages": ("normalise", "personal_data"), "tokenizer__kind": "byte",
              "split__validation_share": 0.2}
    manifest = prepare(make_config([tmp_path / "a.jsonl"], **fields), tmp_path / "out", quiet())
    assert [row.stage for row in manifest.flow] == ["read", "normalise", "personal_data"]
    assert sum(manifest.flow[1].changes.values()) >= 50
    assert "\x07" not in "".join(texts_of(tmp_path / "out", "train"))


@pytest.mark.parametrize("fields, expected", [
    ({"stages": ("gopher",)}, r"there is no stage 'gopher'. Did you mean"),
    ({"stages": ("exact", "exact")}, r"names 'exact' twice"),
    ({"stages": ("near", "exact")}, r"cannot run in this order.*Set stages=\('exact', 'near'\)"),
    ({"stages": ("exact", "normalise")}, r"Set stages=\('normalise', 'exact'\)"),
    ({"near__threshold": 0.9}, r"near.threshold=0.9 has no effect: the stage 'near' does not run"),
    ({"stages": ("decontaminate",)}, r"decontaminate.sets is empty"),
])
def test_stages_that_cannot_run(fields, expected):
    with pytest.raises(UserError, match=expected):
        make_config(["a.txt"], **fields)


def test_a_missing_column_is_told_before_anything_is_written(tmp_path):
    (tmp_path / "a.txt").write_text("A text of some words.\n" * 50)
    (tmp_path / "b.csv").write_text("body\nA text.\n")
    config = make_config([tmp_path / "a.txt", tmp_path / "*.csv"])
    with pytest.raises(UserError, match="body"):
        prepare(config, tmp_path / "out", quiet())
    assert not (tmp_path / "out").exists()


def test_the_cluster_split_reads_the_settings_of_near():
    assert make_config(["a.txt"], split__by="cluster", near__threshold=0.9).near.threshold == 0.9


def test_nothing_left_says_what_took_it(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "same"}\n{"body": 1}\n{"body": 2}\n')
    with pytest.raises(UserError, match=r"leaves the .* split empty"):
        prepare(make_config([tmp_path]), tmp_path / "out", quiet())
    (tmp_path / "a.jsonl").write_text('{"text": " "}\n{"body": "x"}\n{"body": "y"}\n')
    with pytest.raises(UserError, match=(
        r"No document is left.*no_text_field \(2\), read: blank.*"
        r"The first, .*a.jsonl:1: no_text_field, .*'text' is missing.*body"
    )):
        prepare(make_config([tmp_path]), tmp_path / "out", quiet())


class Crash(BaseException):
    """The process is gone."""


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(2))
def test_a_crash_at_any_file_is_made_good(corpus, tmp_path, monkeypatch, seed):
    whole = tmp_path / "whole"
    prepare(config_of(corpus), whole, quiet(), unit_bytes=6000)
    rng, replace, crashes = random.Random(seed), os.replace, 0

    def dying(*names):
        nonlocal left
        left -= 1
        if left == 0:
            shutil.copy(names[0], f"{names[0]}x")  # a killed process leaves what it was writing
            raise Crash
        replace(*names)

    monkeypatch.setattr(os, "replace", dying)
    while True:
        left = rng.randint(2, 25)
        try:
            prepare(config_of(corpus), tmp_path / "out", quiet(), unit_bytes=6000)
            break
        except Crash:
            crashes += 1
            assert not (tmp_path / "out/manifest.json").exists()
    assert crashes > 4
    assert contents(tmp_path / "out") == contents(whole)


def test_other_settings_begin_anew(corpus, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("jaxllm.data.prepare.pipeline.Preparation._finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(config_of(corpus), out, quiet())
    left = list(out.glob(".partial-*"))
    assert len(left) == 1
    (corpus / "a.txt").write_text("\n".join(sentences(300, 3)))
    prepare(config_of(corpus), out, quiet())
    prepare(config_of(corpus), tmp_path / "fresh", quiet())
    assert contents(out) == contents(tmp_path / "fresh")


def test_a_changed_evaluation_set_or_word_list_is_noticed(corpus, tmp_path):
    (tmp_path / "words.txt").write_text("never\n")
    stages = {"stages": ("toxicity", "decontaminate"),
              "toxicity__word_list": str(tmp_path / "words.txt"), "toxicity__least_words": 1}
    config, out = config_of(corpus, **stages, split__by="document"), tmp_path / "out"
    first = prepare(config, out, quiet())
    before = contents(out)
    assert prepare(config, out, quiet()) == first
    for name in ("words.txt", "eval.jsonl"):
        saved = (tmp_path / name).read_text()
        (tmp_path / name).write_text(saved.replace("r", "s"))
        with pytest.raises(UserError, match=r"beside the input \(evaluation sets, a list of words"):
            prepare(config, out, quiet())
        (tmp_path / name).write_text(saved)
    assert contents(out) == before
    prepare(config, out, quiet())


def test_half_a_preparation_of_other_libraries_is_not_finished(corpus, tmp_path, monkeypatch):
    out, places = tmp_path / "out", set()
    for release in ("1.0", "2.0", "1.0"):
        with monkeypatch.context() as patch:
            patch.setattr("importlib.metadata.version", lambda name, release=release: release)
            patch.setattr("jaxllm.data.prepare.pipeline.Preparation._finish", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                prepare(config_of(corpus), out, quiet())
        (left,) = out.glob(".partial-*")
        places.add(left.name)
    assert len(places) == 2


SCRIPT = """
import sys
from tests.data.corpora import quiet
from tests.data.prepare.test_pipeline import config_of
from jaxllm.data.prepare.pipeline import prepare
from jaxllm.data.prepare.runners.local import LocalRunner
from pathlib import Path
if __name__ == "__main__":
    config = config_of(Path(sys.argv[1]))
    prepare(config, sys.argv[2], quiet(), runner=LocalRunner(2, 0), unit_bytes=6000)
"""


def files_below(folder):
    return sum(len(files) for _, _, files in os.walk(folder))


def test_sigkill_at_random_moments(corpus, tmp_path):
    """Killed three times, somewhere in what it does next; then finished by one process."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    prepare(config_of(corpus), whole, quiet(), unit_bytes=6000)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(corpus), str(out)]
    for seen in (5, 60, 110):
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        end = time.monotonic() + 60
        while process.poll() is None and files_below(out) < seen:
            assert time.monotonic() < end
            time.sleep(0.005)
        time.sleep(random.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
    prepare(config_of(corpus), out, quiet(), unit_bytes=6000)
    assert contents(out) == contents(whole)


def test_ctrl_c_is_resumable(corpus, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jaxllm.data.prepare.runners.local.execute", stop)
        with pytest.raises(Interrupted, match="the same command goes on"):
            prepare(config_of(corpus), tmp_path / "out", quiet())
    prepare(config_of(corpus), tmp_path / "out", quiet(), runner=LocalRunner())
    assert not list((tmp_path / "out").glob(".*"))


def test_a_full_disk_is_the_users_to_mend(corpus, tmp_path, monkeypatch):
    """At whichever file it happens, and what was done before is not done again."""
    replace = os.replace
    for files in (3, 12, 30):
        left = files

        def full(*names):
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            replace(*names)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(UserError, match="The disk is full: free space"):
                prepare(config_of(corpus), tmp_path / "out", quiet(), unit_bytes=6000)
    prepare(config_of(corpus), tmp_path / "out", quiet(), unit_bytes=6000)
    prepare(config_of(corpus), tmp_path / "whole", quiet(), unit_bytes=6000)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_packed_file_is_worked_on_in_chunks_like_a_plain_one(corpus, tmp_path):
    """One worker unpacks it; the document stages get it in pieces that others may take."""
    content = b"".join(file.read_bytes() for file in sorted(corpus.glob("*.jsonl")))
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    fields = {"stages": ("normalise", "exact"), "tokenizer__kind": "byte",
              "split__validation_share": 0.2}
    found = []
    for name in ("a.jsonl", "a.jsonl.gz"):
        display, out = quiet(), tmp_path / name.replace(".", "-")
        manifest = prepare(make_config([tmp_path / name], **fields), out, display, unit_bytes=5000)
        assert re.search(r"applying the document stages ([2-9]|\d\d)/", display._stream.getvalue())
        found.append((manifest.splits, manifest.flow))
    assert found[0] == found[1]


def test_two_preparations_in_one_folder_are_refused(corpus, tmp_path):
    (tmp_path / "out").mkdir()
    lock = Lock(tmp_path / "out", "preparing data")
    with pytest.raises(UserError, match=r"Another process \(pid \d+ .*is preparing data in"):
        prepare(config_of(corpus), tmp_path / "out", quiet())
    lock.release()
    prepare(config_of(corpus), tmp_path / "out", quiet())
    assert not (tmp_path / "out" / ".lock").exists()
