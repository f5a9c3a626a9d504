"""The text of generated tokens: decoded as they come, cut at a stop string."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from jaxllm.data.tokenizers import StreamDecoder, Tokenizer

OnText = Callable[[int, str], None]  # (row, new text)
NO_TOKEN = -1  # drawn where a model's scores are not numbers


@dataclasses.dataclass(frozen=True)
class Completion:
    """What was generated for one prompt."""

    text: str
    token_ids: tuple[int, ...]
    # "stop": end of text or a stop string; "length": out of tokens; "nan": no scores to draw from
    finish_reason: str


class Row:
    """The text of one row, never cut inside a character."""

    def __init__(
        self, tokenizer: Tokenizer, before: Sequence[int], eos_ids: Iterable[int],
        stop: Sequence[str],
    ):
        """`before` are the ids that the text goes on from."""
        self._decoder = StreamDecoder(tokenizer)
        self._decoder.push(before)  # so that a leading space, say, is seen as in the middle
        self._eos, self._stop = frozenset(eos_ids), tuple(s for s in stop if s)
        self._held = max((len(s) for s in self._stop), default=1) - 1
        self.ids: list[int] = []
        self.text, self.shown, self.reason = "", 0, ""

    def push(self, token: int, limit: int) -> None:
        """Takes the next token unless the row has ended."""
        if self.reason:
            return
        if token in self._eos or token == NO_TOKEN:
            self.reason = "nan" if token == NO_TOKEN else "stop"
            self.text += self._decoder.flush()
            return
        self.ids.append(token)
        self.text += self._decoder.push([token])
        places = [self.text.find(s) for s in self._stop]
        if found := [place for place in places if place >= 0]:
            self.text, self.reason = self.text[: min(found)], "stop"
        elif len(self.ids) >= limit:
            self.text, self.reason = self.text + self._decoder.flush(), "length"

    def new_text(self) -> str:
        """Text that can be shown: all but what may become a stop string."""
        end = len(self.text) if self.reason else max(len(self.text) - self._held, self.shown)
        new, self.shown = self.text[self.shown : end], max(end, self.shown)
        return new

    def completion(self) -> Completion:
        """The row as it stands."""
        return Completion(self.text, tuple(self.ids), self.reason or "length")


def emit(rows: list[Row], tokens_CB: np.ndarray, limit: int, on_text: OnText | None) -> bool:
    """Hands tokens to their rows; True when every row has ended."""
    for tokens_B in tokens_CB:
        for row, token in zip(rows, tokens_B.tolist(), strict=True):
            row.push(token, limit)
    for index, row in enumerate(rows):
        text = row.new_text()
        if text and on_text:
            on_text(index, text)
    return all(row.reason for row in rows)
