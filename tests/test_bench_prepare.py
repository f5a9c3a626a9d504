"""The measurements of data preparation run on small texts and print the tables of docs/data.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .data.corpora import sentences

BENCH = Path(__file__).parent.parent / "tools" / "bench"


def bench(name, *arguments):
    done = subprocess.run(
        (sys.executable, str(BENCH / name), *map(str, arguments)), cwd=BENCH.parents[1], text=True,
        capture_output=True, timeout=300, env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_personal_data_is_counted_by_type(tmp_path):
    text = "Write to ann@example.org or bob@example.org, says Ann."
    spans = [("EMAIL_ADDRESS", "ann@example.org"), ("PERSON", "Ann")]
    record = {"full_text": text, "spans": [
        {"entity_type": kind, "start_position": text.index(part),
         "end_position": text.index(part) + len(part)} for kind, part in spans
    ]}
    (tmp_path / "records.json").write_text(json.dumps([record]))
    shown = bench("prepare_personal.py", f"--presidio={tmp_path / 'records.json'}")
    assert "| email | 1 | 2 | 1 | 1.000 | 0.500 |" in shown  # bob is no span there
    assert "Not covered: PERSON (1)." in shown


def test_planted_overlaps_are_found(tmp_path):
    words = [f"word{index}" for index in range(400)]
    questions = [" ".join(words[at : at + 20]) for at in range(0, 400, 20)]
    (tmp_path / "set.jsonl").write_text("".join(
        json.dumps({"question": question}) + "\n" for question in questions
    ))
    (tmp_path / "corpus.txt").write_text("\n\n".join(sentences(40, seed=1)))
    shown = bench(
        "prepare_decontaminate.py", "--sets", tmp_path / "set.jsonl", "--corpus",
        tmp_path / "corpus.txt",
    )
    planted, found, removed = (
        int(part.split()[-1].replace(",", "").rstrip("."))
        for part in shown.splitlines()[-1].split(";")
    )
    assert planted == found == removed > 0


@pytest.mark.thorough
def test_near_duplicates_are_counted_as_the_corpus_grows():
    rows = bench("prepare_near.py", "--debug").split("---:|\n")[1].splitlines()
    documents = [int(row.split("|")[2].replace(",", "")) for row in rows]
    assert len(rows) == 3 and documents == sorted(documents)
