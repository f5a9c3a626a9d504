"""Texts to arrays of token ids, fast: words that were met before are looked up.

A SentencePiece BPE model merges neighbours until no merge is left, and no piece reaches over a
place where a space follows something else. So the ids of a text are those of its stretches between
such places, each encoded alone. Text repeats its words, so most of them are found in a table, at
several times the speed of the merges; the ids are the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from jaxllm.data.tokenizers import Tokenizer
from jaxllm.data.tokenizers.base import SPACE

WORDS = 2**17  # that are remembered: about 30 MB
LONGEST = 40  # characters of a word that is
STRETCH = re.compile(f"[ {SPACE}]*[^ {SPACE}]+|[ {SPACE}]+")  # that character is a space to it
BPE = 2  # in a SentencePiece model: how it was trained, and so how it encodes


class Encoder:
    """Encodes with a tokenizer, several texts at a time."""

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype):
        self._tokenizer, self._dtype = tokenizer, dtype
        self._words = _Words(tokenizer, dtype) if merges_words(tokenizer) else None

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text."""
        if self._words is None:
            return [np.asarray(ids, self._dtype) for ids in self._tokenizer.encode_batch(texts)]
        ids_of = self._words.__getitem__
        return [
            np.frombuffer(b"".join(map(ids_of, STRETCH.findall(text))), self._dtype)
            for text in texts
        ]


class _Words(dict[str, bytes]):
    """The ids of words, as the bytes of an array, encoded when they are first asked for."""

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype):
        super().__init__()
        self._encode, self._dtype = tokenizer.encode, dtype

    def __missing__(self, word: str) -> bytes:
        ids = np.asarray(self._encode(word), self._dtype).tobytes()
        if len(word) <= LONGEST:
            if len(self) >= WORDS:
                self.clear()
            self[word] = ids
        return ids


def merges_words(tokenizer: Tokenizer) -> bool:
    """Whether a text's ids are those of its stretches: BPE that takes text as it is, without a
    piece that has a space behind something else."""
    if tokenizer.kind != "sentencepiece":
        return False
    model = tokenizer.proto()
    normalizer = model.normalizer_spec
    changed = (
        normalizer.add_dummy_prefix or normalizer.remove_extra_whitespaces
        or normalizer.precompiled_charsmap or not normalizer.escape_whitespaces
    )
    return (
        model.trainer_spec.model_type == BPE and not changed
        and not any(SPACE in piece.piece.lstrip(SPACE) for piece in model.pieces)
    )
