"""What decontamination finds and what it takes from honest text, against real evaluation sets.

  python tools/bench/prepare_decontaminate.py --sets PATH … --corpus FILE-OR-FOLDER …

Prints tables in Markdown: the sets; for each corpus (text files, a document for each paragraph or
file; JSON lines with `text`) the share of characters that is lost, with what it was lost to, and
the MB/s of one core; and of 13 words in a row from random examples, planted with other case and
punctuation at random places of the corpora's documents, how many were found and removed.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

from jaxllm.data.prepare.evaluations.decontaminate import Index, Settings, load
from jaxllm.data.prepare.evaluations.sets import read_examples
from jaxllm.data.prepare.stages.base import Dropped

PLANTED = 2000


def documents(place: Path) -> list[str]:
    """The documents of a corpus."""
    if place.is_dir():
        return [file.read_text("utf-8") for file in sorted(place.glob("*.txt"))]
    text = place.read_text("utf-8")
    if place.suffix == ".jsonl":
        return [json.loads(line)["text"] for line in text.splitlines() if line.strip()]
    return [part for part in text.split("\n\n\n") if part.strip()]


def honest(index: Index, name: str, texts: list[str]) -> None:
    """Prints the row of a corpus."""
    begin = time.process_time()
    cleaned = [index.clean(text) for text in texts]
    seconds = time.process_time() - begin
    size = sum(map(len, texts))
    left = sum(sum(map(len, c)) for c in cleaned if not isinstance(c, Dropped))
    hit = [text for text, c in zip(texts, cleaned, strict=True) if c != [text]]
    owners = {owner for text in hit for owner in index.overlapped(index.hits(text))}
    shown = ", ".join(f"{Path(of).name} {number}" for of, number in sorted(owners)[:4])
    rate = sum(len(text.encode()) for text in texts) / seconds / 1e6
    print(f"| {name} | {len(texts)} | {len(hit)} | {1 - left / size:.4%} | {shown or '—'} "
          f"| {rate:.0f} |")


def planted(index: Index, sets: list[str], texts: list[str]) -> tuple[int, int, int]:
    """(planted, found, removed) of 13 words of random examples in random documents."""
    chance = random.Random(0)
    fields = [f.split() for s in sets for e in read_examples(s) for f in e.fields]
    fields = [f for f in fields if sum(any(map(str.isalnum, w)) for w in f) == len(f) >= 13]
    found = removed = 0
    for words in chance.choices(fields, k=PLANTED):
        at = chance.randrange(len(words) - 12)
        change = chance.choice([str.lower, str.upper, str.title])
        span = [change(word) + chance.choice(["", ",", "."]) for word in words[at:at + 13]]
        host = chance.choice(texts).split()
        place = chance.randrange(len(host) + 1)
        cleaned = index.clean(" ".join(host[:place] + span + host[place:]))
        found += cleaned != [" ".join(host[:place] + span + host[place:])]
        pieces = [] if isinstance(cleaned, Dropped) else cleaned
        removed += not any(index.hits(piece) for piece in pieces)
    return PLANTED, found, removed


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--corpus", nargs="+", type=Path, required=True)
    arguments = parser.parse_args()
    begin = time.process_time()
    index = load(Settings(tuple(arguments.sets)))
    seconds = time.process_time() - begin
    examples, short = (sum(getattr(s, f) for s in index.sets) for f in ("examples", "too_short"))
    print(f"{len(index.sets)} files, {examples:,} examples ({short:,} too short to match), "
          f"{len(index):,} n-grams, indexed in {seconds:.1f} s\n")
    print("| corpus | documents | hit | characters lost | to | MB/s |\n|---|---|---|---|---|---|")
    corpora = {place.name: documents(place) for place in arguments.corpus}
    for name, texts in corpora.items():
        honest(index, name, texts)
    texts = [text for part in corpora.values() for text in part]
    count, found, removed = planted(index, arguments.sets, texts)
    print(f"\nPlanted overlaps: {count}; found {found}; removed {removed}.")


if __name__ == "__main__":
    main()
