"""The documents of a prepared split as text again, one at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxllm.data.sources import TokenSource
from jaxllm.data.tokenizers import Tokenizer

READ = 2**18  # tokens at once


def documents(source: TokenSource, tokenizer: Tokenizer) -> Iterator[str]:
    """The text of every document that has any, in order; special tokens have none."""
    held: list[np.ndarray] = []
    for start in range(0, source.num_tokens, READ):
        tokens, begins = source.slice(start, min(start + READ, source.num_tokens))
        cuts = np.flatnonzero(begins).tolist()
        for place, cut in enumerate(cuts):
            held.append(tokens[cuts[place - 1] if place else 0 : cut])
            yield from _text(held, tokenizer)
            held = []
        held.append(tokens[cuts[-1] if cuts else 0 :])
    yield from _text(held, tokenizer)


def _text(parts: list[np.ndarray], tokenizer: Tokenizer) -> Iterator[str]:
    ids = np.concatenate(parts).tolist() if parts else []
    if ids and (text := tokenizer.decode(ids)):
        yield text
