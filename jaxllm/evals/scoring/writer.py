"""Continues prompts in batches of a few shapes.

Prompts of all lengths, limits and stop strings share batches: what differs between the rows of a
batch costs no program. Each length is two of them, for the prompts and for the tokens after them.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxllm.data.tokenizers import Tokenizer
from jaxllm.evals.scoring import buckets
from jaxllm.evals.scoring.follow import Tell, nobody
from jaxllm.evals.scoring.scorer import Counts, no_numbers
from jaxllm.generate.decode import CHUNK, draw
from jaxllm.generate.rows import Row
from jaxllm.generate.sampling import Sampling
from jaxllm.generate.steps import Prompts, TokenRules, slots_for
from jaxllm.models.load import Model

LENGTHS = 3  # of prompts


class Wanted(NamedTuple):
    """A prompt, and where what follows it ends."""

    ids: Sequence[int]
    limit: int  # new tokens
    stop: Sequence[str] = ()


class _Limited(Row):
    """A row that ends before the others of its batch."""

    def __init__(self, most: int, *args):
        super().__init__(*args)
        self._most = most

    def push(self, token: int, limit: int) -> None:
        """See Row."""
        super().push(token, min(limit, self._most))


class Writer:
    """Continuations by one model."""

    def __init__(
        self, model: Model, tokenizer: Tokenizer, rules: TokenRules, *, batch_size: int,
        start_id: int = 0, counts: Counts | None = None, tell: Tell = nobody,
    ):
        """`start_id` is what an encoder-decoder's decoder begins with; `counts` are added to.
        `tell` is how the processes of other hosts hear what they are to `repeat`."""
        self._model, self._tokenizer, self._rules = model, tokenizer, rules
        self._batch_size, self._start = batch_size, np.int32(start_id)
        self.counts, self._tell = counts or Counts(), tell

    def write(
        self, wanted: Sequence[Wanted], sampling: Sampling, *, lengths: int = LENGTHS,
        seed: int = 0, apart: bool = False,
    ) -> Iterator[tuple[int, Row]]:
        """(place, row) of every prompt, in batches of at most `lengths` lengths.

        `apart` decodes what is new without the prompt before it, as lm-eval's hf backend does, so
        that some tokenizers leave out a space between the two.

        Raises:
          UserError: the model's scores are not numbers.
        """
        # long and short answers, too, share no batch: a cache has room for the longest
        sums = [len(each.ids) + each.limit for each in wanted]
        for number, (_, members) in enumerate(buckets.split(sums, lengths)):
            length = buckets.rounded(max(len(wanted[m].ids) for m in members))
            limit = max(wanted[m].limit for m in members)
            size = min(self._batch_size, 1 << (len(members) - 1).bit_length())
            members.sort(key=lambda m: -wanted[m].limit)
            for first in range(0, len(members), size):
                chunk = members[first : first + size]
                rows = self._drawn(
                    [wanted[m] for m in chunk], (size, length), limit, sampling,
                    zlib.crc32(f"{seed} {number} {first}".encode()) >> 1, apart,
                )
                yield from zip(chunk, rows, strict=True)

    def repeat(
        self, wanted: Sequence[Sequence[Any]], shape: Sequence[int], limit: int,
        sampling: Mapping[str, Any], seed: int, apart: bool,
    ) -> None:
        """Does what another process told; nobody reads here what comes of it."""
        rows, length = shape
        self._drawn(
            [Wanted(*each) for each in wanted], (rows, length), limit, Sampling(**sampling), seed,
            apart,
        )

    def _drawn(
        self, wanted: Sequence[Wanted], shape: tuple[int, int], limit: int, sampling: Sampling,
        seed: int, apart: bool,
    ) -> list[Row]:
        """The rows of a batch, padded to a shape [rows, tokens], drawn on all hosts."""
        told = dataclasses.asdict(sampling)
        self._tell("write", wanted, shape, limit, told, seed, apart)
        tokens, lengths = np.zeros(shape, np.int32), np.ones(shape[0], np.int32)
        rows = []
        for place, (ids, most, stop) in enumerate(wanted):
            tokens[place, : len(ids)], lengths[place] = ids, len(ids)
            before = () if apart or self._encoded else ids
            rows.append(_Limited(most, self._tokenizer, before, self._rules.eos_ids, stop))
        padding = [Row(self._tokenizer, (), (), ()) for _ in range(shape[0] - len(rows))]
        for row in padding:
            row.reason = "stop"  # it writes nothing
        prompts = Prompts(tokens, lengths, self._start)
        vocabulary = min(self._tokenizer.vocab_size, self._model.config.vocab_size)
        draw(
            self._model, vocabulary, prompts, rows + padding, limit, sampling, self._rules, seed
        )
        if any(row.reason == "nan" for row in rows):
            raise no_numbers()
        slots = slots_for(self._model.config, prompts, limit + CHUNK)
        read = shape if self._encoded else shape[:1]  # by the program of the new tokens
        self.counts.shapes |= {("prompts", sampling, shape, slots),
                               ("tokens", sampling, read, slots)}
        written = max(len(row.ids) for row in rows)
        self.counts.computed += tokens.size + shape[0] * (-(-written // CHUNK) * CHUNK)
        return rows

    @property
    def _encoded(self) -> bool:
        return self._model.config.architecture == "encoder_decoder"
