"""How well personal data is found, by type, and how fast.

  python tools/bench/prepare_personal.py --presidio=PATH/synth.json [--text=FILE …]

PATH/synth.json is a file of microsoft/presidio-research (data/synth_dataset_v2.json): texts with
the spans that were put in. Prints a table in Markdown. A find counts when it is exactly the span of
that type; what is found more is held against precision. Types of that file which no pattern finds
are listed as not covered. Each --text is timed in MB/s of UTF-8 per second of one core's time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

from jaxllm.data.prepare.stages import personal_data
from jaxllm.data.prepare.stages.base import View

NAMES = {  # presidio's
    "EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "IP_ADDRESS": "ip", "IBAN_CODE": "iban",
    "CREDIT_CARD": "credit_card", "US_SSN": "ssn",
}
SECONDS = 2.0  # of each timing, at least


def score(records: list[dict]) -> dict[str, tuple[int, int, int, list[str]]]:
    """By type: spans in the texts, finds, finds that are right, and what went wrong, in words."""
    gold, finds, right, wrong = Counter(), Counter(), Counter(), {}
    for record in records:
        text = record["full_text"]
        spans = {
            (s["start_position"], s["end_position"], NAMES[s["entity_type"]])
            for s in record["spans"] if s["entity_type"] in NAMES
        }
        found = set(personal_data.find(text))
        gold.update(kind for _, _, kind in spans)
        finds.update(kind for _, _, kind in found)
        right.update(kind for _, _, kind in spans & found)
        for mark, rest in (("missed", spans - found), ("too much", found - spans)):
            for start, end, kind in sorted(rest):
                around = text[max(0, start - 25):end + 10].replace("\n", "⏎")
                wrong.setdefault(kind, []).append(f"{mark}: {text[start:end]} in “{around}”")
    return {
        kind: (gold[kind], finds[kind], right[kind], wrong.get(kind, []))
        for kind in personal_data.TYPES
    }


def rate(text: str) -> float:
    """MB of UTF-8 a second of processor time, documents of 3,000 characters."""
    stage = personal_data.make(personal_data.Settings())
    parts = [text[i:i + 3000] for i in range(0, len(text), 3000)]
    size, done, begin = len(text.encode()), 0, time.process_time()
    while (seconds := time.process_time() - begin) < SECONDS:
        for part in parts:
            stage(View(part))
        done += size
    return done / seconds / 1e6


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--presidio", type=Path, required=True)
    parser.add_argument("--text", type=Path, action="append", default=[])
    parser.add_argument("--wrong", action="store_true", help="list what was missed or too much")
    arguments = parser.parse_args()
    records = json.loads(arguments.presidio.read_text("utf-8"))
    print("| type | in the texts | found | right | recall | precision |\n|---|---|---|---|---|---|")
    for kind, (gold, finds, right, wrong) in score(records).items():
        shares = [f"{right / n:.3f}" if n else "—" for n in (gold, finds)]
        print(f"| {kind} | {gold} | {finds} | {right} | {shares[0]} | {shares[1]} |")
        if arguments.wrong and wrong:
            print(*(f"    {line}" for line in wrong), sep="\n")
    others = Counter(s["entity_type"] for r in records for s in r["spans"])
    print("\nNot covered: " + ", ".join(
        f"{name} ({count})" for name, count in others.most_common() if name not in NAMES) + ".")
    if arguments.text:
        print("\n| text | MB/s |\n|---|---|")
    for file in arguments.text:
        print(f"| {file.name} | {rate(file.read_text('utf-8')):.0f} |")


if __name__ == "__main__":
    main()
