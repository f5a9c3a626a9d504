"""Tags of words, as of named entities: the tag's id is the target of each word's first token.

The other tokens of a word have weight 0, as in BERT (Devlin et al. 2019, section 5.3) and in
transformers' example. Words are joined by spaces; the first token of a word is the first whose last
character is one of the word's. Tags with prefixes follow IOB2: an entity begins with B-.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxllm.data.batch import Batch
from jaxllm.data.objectives.rows import Placed, RowObjective
from jaxllm.data.rows.examples import Example
from jaxllm.data.rows.formats import Tagged
from jaxllm.data.rows.labels import Labels
from jaxllm.data.rows.row import BadRow
from jaxllm.data.tokenizers.base import FIRST, Encoded

INSIDE, BEGIN = "I-", "B-"


class TokenClassification(RowObjective):
    """Examples of `ids`, and for each its `tag` and whether it is `first` of a word."""

    ARCHITECTURES = ("encoder", "decoder")
    FORMATS = ("tokens_tags",)
    LABELS = "tag"
    READS = ("labels", "truncate")

    def _prepare(self, decoder_start_id):
        parts = [part for part, _ in self._tokenizer.wrapping[0]]
        self._before = parts.index(FIRST)

    def encode(self, items: Sequence[Placed], labels: Labels) -> list[Example | BadRow]:
        found: list[Example | BadRow] = []
        encoded = self._tokenizer.encode_places([" ".join(item.tokens) for item, _ in items])
        for (item, place), one in zip(items, encoded, strict=True):
            try:
                check_iob2(item.tags, place)
                found.append(self._example(item, one, labels.codes(item.tags, place), place))
            except BadRow as error:
                found.append(error)
        return found

    def _example(
        self, item: Tagged, encoded: Encoded, codes: list[int], place: str
    ) -> Example:
        ids, places = self._wrapped(encoded[0]), np.array(encoded[1])
        tag, first = np.zeros(len(ids), np.int32), np.zeros(len(ids), bool)
        lengths = np.array([len(token) for token in item.tokens])
        starts = np.cumsum(lengths + 1) - lengths - 1
        at = np.searchsorted(places, starts)
        for word, token in enumerate(at.tolist()):
            # a tokenizer may write nothing for a word, or one token for two
            if token < len(places) and places[token] < starts[word] + lengths[word]:
                tag[self._before + token], first[self._before + token] = codes[word], True
        if not first.any():
            raise BadRow(place, "it trains on nothing: the tokenizer has no token for its words")
        return {"ids": ids, "tag": tag, "first": first}

    def size(self, example: Example) -> int:
        return len(example["ids"])

    def cut(self, example: Example) -> Example | None:
        ids = self._shortened(example["ids"], self.sequence_length)
        short = {name: values[: len(ids)].copy() for name, values in example.items()}
        short["first"][-1] &= not self._special[ids[-1]]
        return {**short, "ids": ids} if short["first"].any() else None

    def example(self, pack: Sequence[Example], rng: np.random.Generator) -> Batch:
        one = pack[0]
        inputs, targets, weights, positions, segments = self._one_text(one["ids"])
        n = len(one["ids"])
        targets[:n], weights[:n] = np.where(one["first"], one["tag"], 0), one["first"]
        return Batch(inputs, targets, weights, positions, segments)


def check_iob2(tags: Sequence[str | int], place: str) -> None:
    """Refuses an entity that does not begin with B-.

    Raises:
      BadRow: naming the word.
    """
    before = "O"
    for number, tag in enumerate(map(str, tags), 1):
        kind = tag.removeprefix(INSIDE)
        if tag.startswith(INSIDE) and before not in (BEGIN + kind, INSIDE + kind):
            raise BadRow(
                place, f"word {number} has the tag {tag!r} after {before!r}: in IOB2 an entity "
                f"begins with {BEGIN + kind!r}",
            )
        before = tag


OBJECTIVE = TokenClassification
