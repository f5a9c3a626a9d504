"""The quality rules of `prepare` beside datatrove's: the same decisions, and how fast.

  python tools/bench/prepare_quality.py --data=FOLDER --datatrove=PYTHON [--debug]

FOLDER holds the sets that `CORPORA` reads: web pages, Grimm's tales, FOMC statements, abstracts
and regulations rewritten here as WikiText is, and short texts. PYTHON is the interpreter of a
virtual environment with datatrove 0.10.1 and spaCy, whose English tokenizer needs no download.

Prints markdown: the share of documents on which both keep or both drop (in brackets: and for the
same reason), each difference, and megabytes of text that one core does in a second, both sides
taking turns in one run.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import re
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROUNDS = 5
RULES = ("gopher_quality", "gopher_repetition", "c4", "fineweb")
RENAMED = {"enough_stop_words": "too_few_stop_words"}  # what datatrove calls a reason
STAGES = ("normalise", "boilerplate", *RULES, "toxicity", "personal_data")
ALL = "all in turn"
TIMED = 200_000  # bytes of each corpus that are timed: datatrove needs seconds for them
Decision = str  # "" is kept, else the reason

# --- the documents -------------------------------------------------------------------------------


def c4_demo(folder: Path) -> Iterator[str]:
    """Web pages."""
    for line in (folder / "c4_demo" / "c4_demo.ship.jsonl").read_text().splitlines():
        yield json.loads(line)["text"]


def grimm(folder: Path) -> Iterator[str]:
    """The book, its tales and its paragraphs."""
    text = (folder / "grimm" / "tales.txt").read_text()
    yield text
    yield from (tale for tale in re.split(r"\n{5,}", text) if tale.strip())
    yield from (paragraph for paragraph in re.split(r"\n\n+", text) if paragraph.strip())


def fomc(folder: Path) -> Iterator[str]:
    """Statements of the Federal Reserve."""
    for file in sorted((folder / "fomc_statements").glob("*.txt")):
        yield file.read_text()


def wikitext_like(folder: Path) -> Iterator[str]:
    """Abstracts and regulations, rewritten as WikiText is: headings, and tokens set apart."""
    rows = json.loads((folder / "pubmedqa" / "train500.json").read_text())
    for row in rows.values() if isinstance(rows, dict) else rows:
        yield _wikitext(row["QUESTION"], zip(row["LABELS"], row["CONTEXTS"], strict=False))
    root = xml.parse(folder / "us_ecfr_fr" / "current_ECFR-title1.xml").getroot()
    for section in root.iter("DIV8"):
        parts = ["".join(part.itertext()) for part in section]
        if len(parts) > 1:
            yield _wikitext(parts[0], [("", part) for part in parts[1:]])


def _wikitext(title: str, sections) -> str:
    lines = [f" = {title.strip()} = ", ""]
    for heading, body in sections:
        if heading:
            lines += [f" = = {heading.title()} = = ", ""]
        body = re.sub(r"(?<=\w)-(?=\w)", " @-@ ", " ".join(body.split()))
        body = re.sub(r"(?<=\d)([.,])(?=\d)", r" @\1@ ", body)
        body = re.sub(r"([.,;:!?()\"'%])(?!@)", r" \1 ", body)
        lines += [" " + re.sub(" +", " ", body).replace("@ . @", "@.@"), ""]
    return "\n".join(lines)


def others(folder: Path) -> Iterator[str]:
    """Short messages, dialogue, verse, tweets and sums: what is no web page."""
    with open(folder / "sms_spam" / "SMSSpamCollection.ship.tsv", newline="") as file:
        for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield row[-1]
    for line in (folder / "hh_rlhf" / "harmless-base.test.ship.jsonl").read_text().splitlines():
        yield json.loads(line)["chosen"]
    verse = (folder / "tinyshakespeare" / "input.txt").read_text()
    yield from (verse[place: place + 3000] for place in range(0, len(verse), 3000))
    for line in (folder / "gsm8k" / "train.jsonl").read_text().splitlines()[:1000]:
        row = json.loads(line)
        yield f"{row['question']}\n{row['answer']}"


CORPORA = {f.__name__: f for f in (c4_demo, grimm, fomc, wikitext_like, others)}

# --- the two sides -------------------------------------------------------------------------------


def datatrove_side() -> dict[str, Callable[[str], tuple[Decision, str]]]:
    """Each filter as a function of a text: the decision, and the text that stays."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    def decide(each, text: str) -> tuple[Decision, str]:
        document = Document(text=text, id="0")
        result = each.filter(document)
        if result is True:
            return "", document.text
        reason = result[1].removeprefix("gopher_")
        return RENAMED.get(reason, reason), text

    filters = (
        GopherQualityFilter(), GopherRepetitionFilter(), C4QualityFilter(), FineWebQualityFilter(),
    )
    return {
        name: lambda text, each=each: decide(each, text)
        for name, each in zip(RULES, filters, strict=True)
    }


def our_side() -> dict[str, Callable[[str], tuple[Decision, str]]]:
    """The same from the stages."""
    import importlib

    from jaxllm.data.prepare.stages.base import Dropped, View

    def decide(stage, text: str) -> tuple[Decision, str]:
        outcome = stage(View(text))
        return (outcome.reason, text) if isinstance(outcome, Dropped) else ("", outcome.text)

    sides = {}
    for name in RULES:
        module = importlib.import_module(f"jaxllm.data.prepare.stages.{name}")
        stage = module.make(module.Settings())
        sides[name] = lambda text, stage=stage: decide(stage, text)
    return sides


def our_pipeline(names: tuple[str, ...]) -> Callable[[str], Decision]:
    """Stages in turn; a document that no stage changed keeps its view."""
    import importlib

    from jaxllm.data.prepare.stages.base import Dropped, View

    modules = [importlib.import_module(f"jaxllm.data.prepare.stages.{name}") for name in names]
    stages = [module.make(module.Settings()) for module in modules]

    def run(text: str) -> Decision:
        view = View(text)
        for stage in stages:
            outcome = stage(view)
            if isinstance(outcome, Dropped):
                return outcome.reason
            if outcome.text != view.text:
                view = View(outcome.text)
        return ""

    return run


def in_turn(sides: dict[str, Callable[[str], tuple[Decision, str]]]) -> Callable[[str], Decision]:
    """The first reason to drop among all filters, each of which sees what the last one left."""

    def run(text: str) -> Decision:
        for name in RULES:
            reason, text = sides[name](text)
            if reason:
                return reason
        return ""

    return run


def child(side: str, documents: Path) -> None:
    """A worker of measure.py: gives the decisions, then the seconds of a pass over a sample.

    Seconds are the processor's, so that another program on the machine counts for less.
    """
    texts, sample = json.loads(documents.read_text())
    if side == "cold":
        print("> " + json.dumps(_seconds(our_pipeline(STAGES), texts)), flush=True)
        return
    sides = datatrove_side() if side == "datatrove" else our_side()
    whole = {
        "datatrove": lambda: in_turn(sides),
        "rules": lambda: our_pipeline(RULES),
        "stages": lambda: our_pipeline(STAGES),
    }[side]()
    decisions: dict[str, list[Decision]] = {name: [] for name in (*RULES, ALL)}
    for text in texts if side != "stages" else sample:
        for name, decide in sides.items() if side != "stages" else ():
            decisions[name].append(decide(text)[0])
        decisions[ALL].append(whole(text))
    print("> " + json.dumps(decisions), flush=True)
    for _ in sys.stdin:
        print("> " + json.dumps([_seconds(whole, sample)]), flush=True)


def _seconds(decide: Callable[[str], Decision], texts: list[str]) -> float:
    begin = time.process_time()
    for text in texts:
        decide(text)
    return time.process_time() - begin


# --- the report ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Difference:
    """A document on which the two sides disagree."""

    corpus: str
    rules: str
    ours: Decision
    theirs: Decision
    text: str


def compare(corpus: str, texts: list[str], ours: dict, theirs: dict) -> list[Difference]:
    """Prints the corpus' row; gives the differences in keeping."""
    found, shares = [], []
    for name in (*RULES, ALL):
        pairs = list(zip(ours[name], theirs[name], strict=True))
        same = sum((not a) == (not b) for a, b in pairs)
        reasons = sum(a == b for a, b in pairs)
        shares.append(f"{same / len(pairs):.2%} ({reasons / len(pairs):.2%})")
        found += [
            Difference(corpus, name, a, b, text)
            for (a, b), text in zip(pairs, texts, strict=True) if (not a) != (not b)
        ]
    kept = sum(not reason for reason in theirs[ALL])
    print(f"| {corpus} | {len(texts):,} | {kept:,} | {' | '.join(shares)} |")
    return found


def main() -> None:
    """Runs both sides and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--datatrove", required=True, help="the Python that has datatrove")
    parser.add_argument("--debug", action="store_true", help="a few documents of each")
    options = parser.parse_args()
    import statistics

    from measure import Worker, alternate, machine

    sys.stdout.reconfigure(line_buffering=True)
    print(machine("ftfy"), "\n")
    here = str(Path(__file__))
    print("| corpus | documents | kept by all | " + " | ".join((*RULES, ALL)) + " |")
    print("|---|---|---|" + "---|" * (len(RULES) + 1))
    differences, rates, everything = [], [], []
    for corpus, read in CORPORA.items():
        texts = list(read(options.data))[: 20 if options.debug else None]
        sample = _sample(texts)
        everything += texts
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "documents.json"
            file.write_text(json.dumps([texts, sample]))
            workers = {
                side: Worker((python, here, f"--child={side}", str(file)))
                for side, python in (
                    ("datatrove", options.datatrove), ("rules", sys.executable),
                    ("stages", sys.executable),
                )
            }
            decisions = {name: worker.facts for name, worker in workers.items()}
            differences += compare(corpus, texts, decisions["rules"], decisions["datatrove"])
            times = alternate(workers, 1 if options.debug else ROUNDS, 1)
        size = sum(len(text.encode()) for text in sample) / 1e6
        rates.append((corpus, size / len(sample), {
            name: size / statistics.median(seconds) for name, seconds in times.items()
        }))
    _print_differences(differences)
    _print_rates(rates)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "documents.json"
        file.write_text(json.dumps([everything, []]))
        worker = Worker((sys.executable, here, "--child=cold", str(file)))
        size = sum(len(text.encode()) for text in everything) / 1e6
        print(f"\nAll corpora once in a fresh process: {size:.1f} MB at {size / worker.facts:.1f} "
              "MB/s through all stages.")
        worker.close()


def _sample(texts: list[str]) -> list[str]:
    """Evenly spaced documents, about TIMED bytes of them."""
    step = max(1, round(sum(map(len, texts)) / TIMED))
    return texts[step // 2:: step]


def _print_differences(differences: list[Difference]) -> None:
    print("\n| corpus | rules | ours | datatrove | document |\n|---|---|---|---|---|")
    for each in differences:
        text = " ".join(each.text.split())[:70].replace("|", "/")
        print(
            f"| {each.corpus} | {each.rules} | {each.ours or 'kept'} | {each.theirs or 'kept'} | "
            f"{text} |"
        )


def _print_rates(rates: list[tuple[str, float, dict[str, float]]]) -> None:
    print("\n| corpus | mean document, bytes | datatrove, MB/s | the same rules here, MB/s | ratio "
          "| all stages here, MB/s | ratio |\n|---|---|---|---|---|---|---|")
    for corpus, size, rate in rates:
        print(
            f"| {corpus} | {size * 1e6:,.0f} | {rate['datatrove']:.2f} | {rate['rules']:.1f} | "
            f"{rate['rules'] / rate['datatrove']:.0f} | {rate['stages']:.1f} | "
            f"{rate['stages'] / rate['datatrove']:.0f} |"
        )
    print(f"\nAll stages: {', '.join(STAGES)}.")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].startswith("--child="):
        sys.path.insert(0, str(HERE))
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        child(sys.argv[1].removeprefix("--child="), Path(sys.argv[2]))
    else:
        main()
