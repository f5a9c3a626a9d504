"""What is to be scored, and the rows that the model reads for it.

Requests with the same inputs are one row: the choices A, B, C, D after a question are four tokens
at one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Request(NamedTuple):
    """A continuation whose log-probability after its context is wanted; neither is empty."""

    context: Sequence[int]
    continuation: Sequence[int]


class Scored(NamedTuple):
    """Of a continuation: each token's log-probability in nats, and whether it is the likeliest."""

    log_probabilities: np.ndarray  # float32 [tokens]
    greedy: np.ndarray  # bool [tokens]

    @property
    def total(self) -> float:
        """The continuation's log-probability."""
        return float(self.log_probabilities.sum(dtype=np.float64))


@dataclass
class Row:
    """Tokens that the model reads, and what is looked up after which of them."""

    ids: tuple[int, ...]
    context: tuple[int, ...] = ()  # what an encoder reads
    places: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    parts: list[tuple[int, int, int]] = field(default_factory=list)  # request, first, tokens

    def add(self, request: int, places: Sequence[int], targets: Sequence[int]) -> None:
        """Takes a request's targets."""
        self.parts.append((request, len(self.targets), len(targets)))
        self.places += places
        self.targets += targets


def rows_of(requests: Sequence[Request], max_length: int) -> tuple[list[Row], int]:
    """The rows of a decoder, and how many requests were cut to `max_length` tokens.

    A row too long for the model loses its beginning, as in lm-evaluation-harness: the last token
    of all is not read, so `max_length` + 1 tokens of context and continuation are kept.
    """
    rows: dict[tuple[int, ...], Row] = {}
    cut = 0
    for number, (context, continuation) in enumerate(requests):
        tokens = (*context, *continuation)
        cut += len(tokens) > max_length + 1
        ids = tokens[-(max_length + 1) :][:-1]
        targets = list(continuation)[-len(ids) :]
        row = rows.setdefault(ids, Row(ids))
        row.add(number, range(len(ids) - len(targets), len(ids)), targets)
    return list(rows.values()), cut


def pairs_of(
    requests: Sequence[Request], max_length: int, start: int
) -> tuple[list[Row], int]:
    """The rows of an encoder-decoder: the encoder reads the context, the decoder begins with
    `start` and goes on with the continuation."""
    rows, cut = [], 0
    for number, (context, continuation) in enumerate(requests):
        cut += max(len(context), len(continuation)) > max_length
        targets = list(continuation)[-max_length:]
        row = Row((start, *targets[:-1]), tuple(context)[-max_length:])
        row.add(number, range(len(targets)), targets)
        rows.append(row)
    return rows, cut
