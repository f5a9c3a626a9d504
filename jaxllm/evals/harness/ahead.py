"""Looks something up for the questions of a task together, where it is wanted one at a time.

lm-evaluation-harness makes a prompt after the other, and an encoder embeds a batch of questions in
little more time than one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

AT_ONCE = 128  # questions


class Ahead:
    """What is found for a question; what is asked for the first time is looked up with the
    questions that come after it."""

    def __init__(
        self, task: Any, question: Callable[[Mapping[str, Any]], str],
        find: Callable[[Sequence[str], int], list],
    ):
        """`find` gives for each of some questions what is likest to it, so many at most."""
        self._question, self._find = question, find
        self._task, self._waiting = task, None
        self._found: dict[str, Any] = {}

    def __call__(self, doc: Mapping[str, Any], count: int) -> Any:
        """What is found for a document's question; `count` is always the same."""
        asked = self._question(doc)
        if asked not in self._found:
            if self._waiting is None:
                self._waiting = iter(self._task.eval_docs)
            some = {self._question(each) for each in itertools.islice(self._waiting, AT_ONCE)}
            queries = sorted({asked, *some} - set(self._found))
            self._found |= zip(queries, self._find(queries, count), strict=True)
        return self._found[asked]
