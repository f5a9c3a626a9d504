"""Makes jaxllm/samples/rows: rows for fine-tuning, derived by rule from the other two samples.

  python tools/sample_rows.py

What stands in a row is the samples' public-domain text; questions and labels are this file's own.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from pathlib import Path

SAMPLES = Path(__file__).resolve().parent.parent / "jaxllm" / "samples"
ROWS = SAMPLES / "rows"
DECISIONS = {  # what the sentence of a decision says, in the order in which it is asked
    "lowered": r"\b(lower|reduc|decrease|eas)", "raised": r"\b(rais|increas|firm|tighten)",
    "kept": r"\b(keep|maintain|unchanged|leave)",
}
LINES = 300  # of the plays, that are asked about
TAGGED = 300  # sentences of the plays with names in them
CHARACTERS = 600  # of a statement that is to be summarised


def statements() -> Iterator[tuple[str, str, str, str]]:
    """Date, text, the sentence of the decision and the decision, of each statement that has one."""
    for file in sorted((SAMPLES / "fomc").glob("statements_*.txt")):
        text = file.read_text()
        date = datetime.datetime.strptime(file.stem.partition("_")[2], "%Y%m%d")
        paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
        sentences = re.split(r"(?<=[a-z]\.)\s+(?=[A-Z])", " ".join(paragraphs))
        found = next((s for s in sentences if "federal funds rate" in s), None)
        kinds = [kind for kind, words in DECISIONS.items() if found and re.search(words, found)]
        if kinds:
            yield f"{date:%B} {date.day}, {date.year}", "\n\n".join(paragraphs), found, kinds[0]


def speeches() -> Iterator[tuple[str, list[str]]]:
    """Who speaks, and the lines, of each speech of the plays."""
    text = (SAMPLES / "tinyshakespeare" / "input.txt").read_text()
    for part in text.split("\n\n"):
        name, _, rest = part.partition(":\n")
        if rest and re.fullmatch(r"[A-Z][A-Za-z ]+", name):
            yield name.title(), rest.splitlines()


def instructions() -> Iterator[dict]:
    """Conversations about statements and plays."""
    for date, text, decision, kind in statements():
        yield chat(f"What did the Federal Open Market Committee decide on {date}?", decision)
        opening = text.partition("\n\n")[0]
        yield chat(f"Give the decision of this statement in a sentence.\n\n{opening}", decision)
        yield chat(
            "Did the Committee raise, lower or keep its target for the federal funds rate?\n\n"
            + decision, f"It {kind} its target."
        )
    long = [(name, line) for name, lines in speeches() for line in lines if len(line) > 40]
    for name, line in long[:: len(long) // LINES][:LINES]:
        yield chat(f"Who says this line?\n\n{line}", f"{name} says it.")


def chat(question: str, answer: str) -> dict:
    """A conversation of one turn."""
    return {"messages": [
        {"role": "user", "content": question}, {"role": "assistant", "content": answer},
    ]}


def tagged() -> Iterator[list[tuple[str, str]]]:
    """Lines of the plays with their words' tags (IOB2): PER for who speaks somewhere in them."""
    found = list(speeches())
    names = {name for name, _ in found if re.fullmatch(r"[A-Z][a-z]{3,}", name)}
    names -= {"Both", "First", "Second", "Third", "Lord", "Lady", "Nurse", "King", "Queen"}
    lines = [line for _, lines in found for line in lines if names & set(re.findall(r"\w+", line))]
    for line in lines[:: len(lines) // TAGGED][:TAGGED]:
        words = re.findall(r"\w+(?:'\w+)*|[^\w\s]", line)
        yield [(word, "B-PER" if word in names else "O") for word in words]


def main() -> None:
    """Writes the files."""
    ROWS.mkdir(exist_ok=True)
    found = list(statements())
    write("instructions.jsonl", map(json.dumps, instructions()))
    write("decisions.jsonl", (json.dumps({"text": d, "label": kind}) for _, _, d, kind in found))
    write("summaries.jsonl", (
        json.dumps({"source": text[:CHARACTERS], "target": d}) for _, text, d, _ in found
    ))
    write("names.conll", ("\n".join("\t".join(pair) for pair in line) + "\n" for line in tagged()))


def write(name: str, lines: Iterator[str]) -> None:
    """A file of these lines."""
    (ROWS / name).write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
