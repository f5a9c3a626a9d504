"""Which evaluation examples the training data hold, and the scores with and without them.

The rule is GPT-3's (Brown et al. 2020, https://arxiv.org/abs/2005.14165, appendix C), as `prepare`
removes such text by: an example is dirty when 13 words in a row of it, or all of an example of 8
to 12 words, are in a training document; an n-gram that more than 10 training documents hold is a
phrase of the language and counts for nothing. Shorter examples cannot be told from chance and
count as clean. The shards are read once, a document at a time; what is kept has the size of the
evaluation set.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jaxllm.core.display import Display
from jaxllm.data.prepare.evaluations import decontaminate
from jaxllm.data.prepare.evaluations.sets import Example
from jaxllm.data.sources import TokenSource
from jaxllm.evals.documents import documents

Key = tuple[str, int]  # a set's name, and an example's number in it


@dataclass(frozen=True)
class Overlap:
    """Words that an example shares with the training data."""

    set: str
    example: int
    words: str
    documents: int  # that hold them
    folder: str  # of the first of those
    document: int  # its number in the split


@dataclass(frozen=True)
class Contamination:
    """What the training data hold of the evaluation sets."""

    dirty: frozenset[Key]
    overlaps: tuple[Overlap, ...]  # one for each dirty example: its first
    documents: int  # that were read

    def text(self) -> str:
        """The overlaps for a person, a paragraph each."""
        return "\n".join(
            f"{each.set} example {each.example}: in {each.documents} "
            f"document{'s' if each.documents != 1 else ''}, first {each.folder} document "
            f"{each.document}\n  {each.words}\n"
            for each in self.overlaps
        )


def contamination(
    examples: Iterable[Example], folders: Sequence[str], display: Display, split: str = "train",
    settings: decontaminate.Settings | None = None,
) -> Contamination:
    """Looks for evaluation examples in the split of prepared folders.

    Raises:
      UserError: no prepared data there, or no such split.
    """
    index = decontaminate.Index(settings or decontaminate.Settings(), examples)
    counts: collections.Counter[int] = collections.Counter()
    first: dict[int, tuple[str, int]] = {}
    read = 0
    for folder in folders:
        source = TokenSource(folder, split)
        with display.phase(f"looking for evaluation examples in {folder}"):
            for number, text in enumerate(documents(source, source.load_tokenizer())):
                hits = index.hits(text)
                counts.update(hits)
                for ngram in hits:
                    first.setdefault(ngram, (folder, number))
                read += 1
    ignored = index.ignored(counts)
    owners: dict[Key, int] = {}
    for ngram in sorted(set(counts) - ignored):
        for key in index.overlapped([ngram]):
            owners.setdefault(key, ngram)
    words = index.words(list(owners.values()))
    overlaps = tuple(
        Overlap(*key, text, counts[ngram], *first[ngram])
        for (key, ngram), text in zip(owners.items(), words, strict=True)
    )
    return Contamination(frozenset(owners), overlaps, read)


def parts(
    keys: Sequence[Key], found: Contamination
) -> Mapping[str, list[int]]:
    """The places of all, of the clean and of the dirty examples."""
    everything = list(range(len(keys)))
    return {
        "all": everything,
        "clean": [i for i in everything if keys[i] not in found.dirty],
        "dirty": [i for i in everything if keys[i] in found.dirty],
    }
