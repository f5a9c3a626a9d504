"""What a pass over the corpus is: it indexes chunks, decides what to drop, and is applied to each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from etils import epath

from jaxllm.data.prepare.documents import Document
from jaxllm.data.prepare.flow import Row, Samples, size_of
from jaxllm.data.prepare.stages.base import Dropped
from jaxllm.data.prepare.work import Result, Work

Change = Callable[[int, Document], list[Document] | Dropped]  # given its number in the chunk
RunPhase = Callable[[str, str, Callable[[Work, Any], Result], Sequence[Any]], list[Result]]


class Collector(Protocol):
    """Takes the documents of a chunk, in order, and writes their index."""

    def add(self, text: str) -> None:
        """Takes the next document."""

    def save(self, target: epath.Path) -> None:
        """Writes the index."""


class Pass(Protocol):
    """A pass over the corpus."""

    name: str
    drops: bool  # whether the flow has rows for it: it may only find groups

    def collector(self, work: Work) -> Collector | None:
        """What indexes one chunk, where there is an index."""

    def decide(self, work: Work, level: int, run: RunPhase) -> None:
        """Finds out what to drop, from all indexes.

        Called in the driver; `run(title, phase, function, items)` is for the workers.
        """

    def applied(self, work: Work, level: int, chunk: int) -> Applied:
        """The pass on one chunk."""


class Applied(Protocol):
    """A pass at work on the documents of one chunk, and what it counts."""

    rows: list[Row]

    def __call__(self, number: int, document: Document, samples: Samples) -> list[Document]:
        """What becomes of the next document; `samples` is offered what is dropped."""


class One:
    """The documents of one chunk under one change."""

    def __init__(self, stage: str, change: Change):
        self._row, self._change = Row(stage), change
        self.rows = [self._row]

    def __call__(self, number: int, document: Document, samples: Samples) -> list[Document]:
        row, size = self._row, size_of(document.text)
        row.before.add(size)
        kept = self._change(number, document)
        if isinstance(kept, Dropped):
            row.drop(kept.reason, size)
            samples.add(row.stage, kept.reason, document)
            return []
        if len(kept) != 1 or kept[0].text != document.text:
            row.change({"documents_cut": 1})
        for one in kept:
            row.after.add(size_of(one.text))
        return kept
