"""Near-duplicates in plain Python: words by a regular expression, sets of tuples, all pairs."""

import itertools
import random
import re
from pathlib import Path

import jaxllm.samples

SAMPLES = Path(jaxllm.samples.__file__).parent


def statements() -> list[str]:
    """117 statements of the Federal Reserve, many of them alike in passages."""
    return [file.read_text() for file in sorted((SAMPLES / "fomc").glob("*.txt"))[:-1]]


def scenes(count: int, words: int = 120) -> list[str]:
    """Pieces of Shakespeare's plays."""
    every = (SAMPLES / "tinyshakespeare" / "input.txt").read_text().split()
    return [" ".join(every[i * words : (i + 1) * words]) for i in range(count)]


def shingle_set(text: str, n: int = 5) -> frozenset:
    """All runs of n words, or the only run of a shorter text."""
    words = re.findall(r"[^\W_]+", text.lower())
    runs = {tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))}
    return frozenset(runs - {()})


def similarity(left: frozenset, right: frozenset) -> float:
    """Jaccard's."""
    return len(left & right) / max(len(left | right), 1)


def all_pairs(texts, least: float, n: int = 5) -> set[tuple[int, int]]:
    """Every pair of at least this similarity."""
    sets = [shingle_set(text, n) for text in texts]
    return {(a, b) for a, b in itertools.combinations(range(len(texts)), 2)
            if sets[a] and similarity(sets[a], sets[b]) >= least}


def with_changes(text: str, changes: int, seed: int) -> str:
    """The text with single words exchanged."""
    rng, words = random.Random(seed), text.split()
    for place in rng.sample(range(len(words)), changes):
        words[place] = f"new{rng.randrange(10_000)}"
    return " ".join(words)


def roots_of(pairs, documents: int) -> list[int]:
    """The smallest member of each document's component, by walking through neighbours."""
    beside = {number: {number} for number in range(documents)}
    for a, b in pairs:
        beside[a].add(b)
        beside[b].add(a)
    roots = list(range(documents))
    for start in range(documents):
        if roots[start] < start:
            continue
        seen, waiting = {start}, [start]
        while waiting:
            for other in beside[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        for number in seen:
            roots[number] = start
    return roots
