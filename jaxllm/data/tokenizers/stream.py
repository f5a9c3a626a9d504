"""Text of tokens that arrive one after another, never cut inside a character."""

from __future__ import annotations

from collections.abc import Sequence

from jaxllm.data.tokenizers.base import Tokenizer

REPLACEMENT = "\ufffd"
LONGEST_TAIL = 3  # an unfinished UTF-8 character has at most three bytes, each shown as U+FFFD
WINDOW = 32  # ids decoded again at every push, at most
CONTEXT = 8  # ids kept when the window is cut: what a decoder may look back at


class StreamDecoder:
    """`push` ids and get the text that is final; `flush` gives the rest.

    The texts joined equal `tokenizer.decode` of all the ids.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0  # characters of decode(self._ids) that were handed out

    def push(self, ids: Sequence[int]) -> str:
        """The text that became final with these ids; it may be empty."""
        self._ids.extend(ids)
        special = self._tokenizer.special_ids
        last = next((token for token in reversed(self._ids) if token not in special), None)
        if last in self._tokenizer.run_ids:
            return ""  # the next byte may still change the text of those before it
        text = self._tokenizer.decode(self._ids)
        end = len(text)
        while end > len(text) - LONGEST_TAIL and text[:end].endswith(REPLACEMENT):
            end -= 1
        new, self._given = text[self._given : end], max(end, self._given)
        if len(self._ids) > WINDOW and end == len(text):
            self._ids = self._ids[-CONTEXT:]
            self._given = len(self._tokenizer.decode(self._ids))
        return new

    def flush(self) -> str:
        """What was held back because its last character was not complete."""
        rest = self._tokenizer.decode(self._ids)[self._given :]
        self._ids, self._given = [], 0
        return rest
