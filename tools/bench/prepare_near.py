"""Near-duplicates: what is found at which similarity, what is merged wrongly, how fast, how large.

  python tools/bench/prepare_near.py --data=FOLDER [--megabytes=512] [--debug]

FOLDER holds the sets named in `documents`, `paragraphs` and `messages`. Prints markdown. The
similarities are exact, of sets of word tuples that plain Python makes here, so that nothing is
measured by itself. Times are a core's (CPU seconds of the process), so that neighbours' load counts
little. With --debug everything is small, and FOLDER may be left out.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from measure import environment, machine

from jaxllm.data.prepare.duplicates import near

SETTINGS = near.Settings()
TARGETS = (0.5, 0.7, 0.8, 0.9)
WIDTH = 0.02  # a perturbation counts for a target within this of it
WORDS = re.compile(r"[^\W_]+")
MB = 1e6
DUPLICATES = 0.25  # of the synthetic corpus

# --- real documents ------------------------------------------------------------------------------


def documents(folder: Path) -> Iterator[str]:
    """Web pages, statements, tales and abstracts."""
    for line in _lines(folder / "c4_demo" / "c4_demo.ship.jsonl"):
        yield json.loads(line)["text"]
    for file in sorted((folder / "fomc_statements").glob("*.txt")):
        yield file.read_text()
    for file in (folder / "grimm").glob("tales.txt"):
        yield from re.split(r"\n{5,}", file.read_text())
    for file in (folder / "pubmedqa").glob("*.json"):
        for row in json.loads(file.read_text()).values():
            yield "\n".join(row["CONTEXTS"])


def paragraphs(folder: Path) -> Iterator[str]:
    """The paragraphs of two editions of the same regulations, which differ in their dashes."""
    for file in sorted((folder / "us_ecfr_fr").glob("*.xml")):
        for paragraph in re.findall(r"<P>(.*?)</P>", file.read_text(), re.DOTALL):
            yield " ".join(re.sub(r"<[^>]+>", " ", paragraph).split())


def messages(folder: Path) -> Iterator[str]:
    """Text messages, spam and not."""
    for line in _lines(folder / "sms_spam" / "SMSSpamCollection.ship.tsv")[1:]:
        yield line.split("\t", 1)[1]


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


# --- the plain reference -------------------------------------------------------------------------


def shingle_set(text: str) -> frozenset[tuple[str, ...]]:
    """The runs of n words, or all words of a shorter text."""
    words, n = WORDS.findall(text.lower()), SETTINGS.ngram
    runs = {tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))}
    return frozenset(runs - {()})


def similarity(left: frozenset, right: frozenset) -> float:
    """Jaccard's."""
    return len(left & right) / max(len(left | right), 1)


def alike(sets: Sequence[frozenset], least: float) -> dict[tuple[int, int], float]:
    """All pairs of at least this similarity, through an index of all shingles."""
    holders: dict[tuple, list[int]] = {}
    pairs = {}
    for number, one in enumerate(sets):
        common = Counter(other for shingle in one for other in holders.get(shingle, ()))
        for other, count in common.items():
            value = count / (len(one) + len(sets[other]) - count)
            if value >= least:
                pairs[other, number] = value
        for shingle in one:
            holders.setdefault(shingle, []).append(number)
    return pairs


# --- perturbations -------------------------------------------------------------------------------


def perturbed(words: list[str], target: float, rng: random.Random, pool: list[str]) -> list[str]:
    """Words edited until their similarity to the original is as near to the target as it gets.

    A third of the texts change in single words all over, a third in passages, a third at the ends.
    """
    original = shingle_set(" ".join(words))
    edit = rng.choice((_words, _passage, _end))
    best, changed = (1 - target, words), words
    for _ in range(4 * len(words)):
        changed = edit(list(changed), rng, pool)
        value = similarity(original, shingle_set(" ".join(changed)))
        best = min(best, (abs(value - target), changed), key=lambda pair: pair[0])
        if value < target:
            break
    return best[1]


def _words(words: list[str], rng: random.Random, pool: list[str]) -> list[str]:
    place = rng.randrange(len(words))
    kind = rng.randrange(4)
    if kind == 0:
        words[place] = rng.choice(pool)
    elif kind == 1:
        words.insert(place, rng.choice(pool))
    elif kind == 2:
        del words[place]
    else:
        other = min(place + 1, len(words) - 1)
        words[place], words[other] = words[other], words[place]
    return words or pool[:1]


def _passage(words: list[str], rng: random.Random, pool: list[str]) -> list[str]:
    place, size = rng.randrange(len(words)), rng.randint(2, 8)
    words[place : place + size] = rng.choices(pool, k=size)
    return words


def _end(words: list[str], rng: random.Random, pool: list[str]) -> list[str]:
    kind = rng.randrange(3)
    if kind == 0 and len(words) > 2:
        return words[1:]
    if kind == 1 and len(words) > 2:
        return words[:-1]
    return [*words, rng.choice(pool)]


def make_perturbations(
    texts: Sequence[str], count: int
) -> Iterator[tuple[list[str], list[tuple[int, int, float]]]]:
    """Corpora (originals, then a perturbation of each) and (original, perturbation, similarity).

    Each corpus has one perturbation of an original at most, so that no third text joins the two.
    """
    rng = random.Random(5)
    originals = [words for text in texts if len(words := text.split()[:400]) >= 40]
    pool = sorted({word for words in originals for word in words})
    while count:
        corpus, made = [" ".join(words) for words in originals], []
        for base, words in enumerate(originals[:count]):
            text = " ".join(perturbed(words, TARGETS[(count + base) % len(TARGETS)], rng, pool))
            made.append((base, len(corpus), similarity(*map(shingle_set, (corpus[base], text)))))
            corpus.append(text)
        count -= len(made)
        yield corpus, made


# --- finding -------------------------------------------------------------------------------------


class Found:
    """What near.py says of a corpus in memory."""

    def __init__(self, texts: Sequence[str], units: int = 3):
        self.read, self._texts = 0, texts
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for unit in np.array_split(np.arange(len(texts)), units):
                writer = near.Writer(SETTINGS)
                for number in unit:
                    writer.add(texts[number])
                paths.append(f"{folder}/{len(paths)}")
                writer.save(paths[-1])
            index = near.Sidecars(paths, SETTINGS)
            found = [near.duplicates(index, part, 2, self._give, SETTINGS) for part in range(2)]
            self.pairs = {tuple(pair) for some in found for pair in some.tolist()}
            self.roots = near.clusters(found, len(texts))
            self.dropped = set(near.drops(self.roots, index, self._give, SETTINGS).tolist())

    def _give(self, numbers: np.ndarray) -> list[str]:
        self.read += len(numbers)
        return [self._texts[number] for number in numbers]


def worst_merge(found: Found, sets: Sequence[frozenset]) -> float:
    """The least similarity of a merge: of a verified pair, or of a dropped one to what is kept."""
    values = [similarity(sets[a], sets[b]) for a, b in found.pairs]
    kept: dict[int, list[int]] = {}
    for number, root in enumerate(found.roots.tolist()):
        if number not in found.dropped:
            kept.setdefault(root, []).append(number)
    for number in found.dropped:
        others = kept[int(found.roots[number])]
        values.append(max(similarity(sets[number], sets[other]) for other in others))
    return min(values, default=1.0)


def report_perturbations(folder: Path, count: int) -> None:
    """Recall by similarity on perturbed documents."""
    made, pairs, read, missed, least = [], [], 0, 0, 1.0  # made: similarity, whether joined
    for corpus, some in make_perturbations(list(documents(folder)), count):
        found, sets = Found(corpus), [shingle_set(text) for text in corpus]
        made += [(value, bool(found.roots[a] == found.roots[b])) for a, b, value in some]
        missed += sum(value >= 0.8 and not {a, b} & found.dropped for a, b, value in some)
        pairs += [similarity(sets[a], sets[b]) for a, b in found.pairs]
        least = min(least, worst_merge(found, sets))
        read += found.read
    print(f"\n{count:,} perturbations of {len(corpus) - len(some):,} real documents, "
          f"{SETTINGS.bands} x {SETTINGS.rows} hashes, threshold {SETTINGS.threshold}\n")
    print("| Jaccard | pairs | share a cluster | share a band, by arithmetic |")
    print("|---|---:|---:|---:|")
    for target in TARGETS:
        joined = [same for value, same in made if abs(value - target) <= WIDTH]
        print(f"| {target} ± {WIDTH} | {len(joined):,} | {sum(joined) / max(len(joined), 1):.4f} "
              f"| {near.found(target, SETTINGS):.4f} |")
    print(f"\nboth kept though 0.8 alike or more: {missed}; verified pairs {len(pairs):,}, of them "
          f"under 0.5: {sum(value < 0.5 for value in pairs)}; the least similar merge: "
          f"{least:.3f}; texts read back: {read:,}")


def report_sets(folder: Path) -> None:
    """Two real sets against all their pairs."""
    print("\n| set | documents | pairs at 0.7 | found | at 0.8 | found | at 0.9 | found "
          "| dropped | least similar merge |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, texts in (("us_ecfr, by paragraph", list(paragraphs(folder))),
                        ("sms_spam", list(messages(folder)))):
        found, sets = Found(texts), [shingle_set(text) for text in texts]
        pairs = alike(sets, 0.7)
        cells = []
        for least in (0.7, 0.8, 0.9):
            some = [pair for pair, value in pairs.items() if value >= least]
            joined = sum(bool(found.roots[a] == found.roots[b]) for a, b in some)
            cells += [f"{len(some):,}", f"{joined / max(len(some), 1):.4f}"]
        print(f"| {name} | {len(texts):,} | {' | '.join(cells)} | {len(found.dropped):,} "
              f"| {worst_merge(found, sets):.3f} |")


# --- speed and memory ----------------------------------------------------------------------------


def report_speed(folder: Path) -> None:
    """Signing and indexing real text on one core."""
    sets: tuple[tuple[str, Callable], ...] = (
        ("web pages, abstracts, tales", documents), ("paragraphs of regulations", paragraphs),
        ("text messages", messages),
    )
    print("\n| text | characters a document | signatures, MB/s | with keys and writing, MB/s |")
    print("|---|---:|---:|---:|")
    for name, read in sets:
        texts = list(read(folder)) or ["a word or two"]
        size = sum(len(text.encode()) for text in texts) / MB
        rates = []
        for work in (_sign, _index):
            seconds = min(_timed(work, texts) for _ in range(5))
            rates.append(f"{size / seconds:.0f}")
        mean = sum(map(len, texts)) / len(texts)
        print(f"| {name} | {mean:,.0f} | {rates[0]} | {rates[1]} |")


def _sign(texts: list[str]) -> None:
    for begin in range(0, len(texts), 100):
        near.signatures(texts[begin : begin + 100], SETTINGS)


def _index(texts: list[str]) -> None:
    writer = near.Writer(SETTINGS)
    for text in texts:
        writer.add(text)
    with tempfile.TemporaryDirectory() as folder:
        writer.save(f"{folder}/index")


def _timed(work: Callable, *arguments: object) -> float:
    begin = time.process_time()
    work(*arguments)
    return time.process_time() - begin


class Synthetic:
    """A corpus that is never held: document i is made of i; a quarter are copies with edits."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        self._words = np.array(["".join(rng.choice(letters, rng.integers(2, 10)))
                                for _ in range(50_000)], object)
        self.seconds = 0.0

    def text(self, number: int) -> str:
        """Document `number`: 200 to 400 words, about 2 kB."""
        begin = time.process_time()
        rng = np.random.default_rng(number)
        if number and rng.random() < DUPLICATES:
            words = self._base(int(rng.integers(number)))
            edits = rng.integers(0, 8)
            words[rng.integers(0, len(words), edits)] = rng.choice(self._words, edits)
        else:
            words = self._base(number)
        text = " ".join(words)
        self.seconds += time.process_time() - begin
        return text

    def _base(self, number: int) -> np.ndarray:
        rng = np.random.default_rng([number, 1])
        places = rng.random(rng.integers(200, 400)) ** 3 * len(self._words)  # some words often
        return self._words[places.astype(np.int64)]

    def texts(self, numbers: np.ndarray) -> list[str]:
        """What near.py reads back."""
        return [self.text(number) for number in numbers.tolist()]


def measure_scale(megabytes: float) -> None:
    """Runs in a process of its own: a synthetic corpus of this size; prints JSON."""
    corpus, unit_bytes, rows = Synthetic(), 32 * MB, {}
    with tempfile.TemporaryDirectory() as folder:
        begin, size, number, paths = time.process_time(), 0, 0, []
        while size < megabytes * MB:
            writer, unit = near.Writer(SETTINGS), 0
            while unit < unit_bytes and size + unit < megabytes * MB:
                text = corpus.text(number)
                writer.add(text)
                unit += len(text)
                number += 1
            size += unit
            paths.append(f"{folder}/{len(paths)}")
            writer.save(paths[-1])
        rows["sign"] = time.process_time() - begin - corpus.seconds
        rows["index_bytes"] = sum(Path(path).stat().st_size for path in paths)
        index, corpus.seconds, begin = near.Sidecars(paths, SETTINGS), 0, time.process_time()
        count = near.parts(index)
        pairs = [near.duplicates(index, part, count, corpus.texts, SETTINGS)
                 for part in range(count)]
        rows["pairs"] = time.process_time() - begin - corpus.seconds
        corpus.seconds, begin = 0, time.process_time()
        roots = near.clusters(pairs, index.documents)
        dropped = near.drops(roots, index, corpus.texts, SETTINGS)
        rows["drop"] = time.process_time() - begin - corpus.seconds
    print(json.dumps({**rows, "documents": number, "bytes": size, "parts": count,
                      "peak": _peak_memory(), "dropped": len(dropped)}))


def _peak_memory() -> int:
    """Bytes. Linux' ru_maxrss of a new process begins at its parent's, VmHWM does not."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes, on macOS


def report_scale(sizes: Sequence[float]) -> None:
    """Time by step and peak memory, which the corpus' size must not move."""
    print("\n| corpus | documents | parts | signing, MB/s | all steps, MB/s | pairs, s | drops, s "
          "| index, bytes a document | dropped | peak memory |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for size in sizes:
        command = (sys.executable, __file__, f"--scale={size}")
        done = subprocess.run(command, env=environment(), text=True, capture_output=True,
                              check=True)
        row = json.loads(done.stdout)
        megabytes = row["bytes"] / MB
        total = row["sign"] + row["pairs"] + row["drop"]
        print(f"| {megabytes:.0f} MB | {row['documents']:,} | {row['parts']} "
              f"| {megabytes / row['sign']:.0f} | {megabytes / total:.0f} | {row['pairs']:.1f} "
              f"| {row['drop']:.1f} | {row['index_bytes'] / row['documents']:.0f} "
              f"| {row['dropped'] / row['documents']:.3f} | {row['peak'] / MB:.0f} MB |")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--megabytes", type=float, default=512)
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--scale", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.scale:
        measure_scale(chosen.scale)
        return
    print(machine("numpy"))
    largest = 4 if chosen.debug else chosen.megabytes
    count = 40 if chosen.debug else 5000
    if next(documents(chosen.data), None) is not None:
        report_perturbations(chosen.data, count)
        report_sets(chosen.data)
        report_speed(chosen.data)
    report_scale([largest / 4, largest / 2, largest])


if __name__ == "__main__":
    main()
