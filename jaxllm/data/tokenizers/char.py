"""One id per character of the corpus: the smallest vocabulary there is, as in nanoGPT's example.

The vocabulary is taken over the whole corpus, validation part included: a character met only there
would have no id, and the published losses are over these 65 characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers.base import Encoded, Tokenizer

FILE = "characters.json"


class CharTokenizer(Tokenizer):
    """Ids in the order of the code points; the end of text, if there is one, comes last."""

    kind = "char"

    def __init__(self, characters: str, end_of_text: bool, mask: bool = False, sentinels: int = 0):
        self.characters = characters
        self.eos_id = len(characters) if end_of_text else None
        last = len(characters) + end_of_text
        self.mask_id = last if mask else None
        self.vocab_size = last + mask + sentinels
        self.sentinel_ids = tuple(self.vocab_size - 1 - i for i in range(sentinels))
        content = {"characters": characters, "end_of_text": end_of_text}
        if mask:
            content["mask"] = True
        if sentinels:
            content["sentinels"] = sentinels
        self.files = {FILE: json.dumps(content, ensure_ascii=False).encode()}
        points = np.frombuffer(characters.encode("utf-32-le"), np.uint32)
        self._ids = np.full(int(points[-1]) + 2, -1, np.int32)  # the last stands for all beyond
        self._ids[points] = np.arange(len(points))

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
          UserError: a character that the corpus did not have.
        """
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        ids = self._ids[np.minimum(points, len(self._ids) - 1)]
        if ids.size and ids.min() < 0:
            place = int(np.argmin(ids))
            raise UserError(
                f"The character {text[place]!r} (place {place}) is none of the "
                f"{len(self.characters)} that the character tokenizer knows. Remove it, or "
                "prepare the data with tokenizer.kind='byte' or 'sentencepiece', which can write "
                "any text."
            )
        return ids.tolist()

    def encode_places(self, texts: Sequence[str]) -> list[Encoded]:
        return [(self.encode(text), list(range(len(text)))) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.characters[i] for i in ids if i < len(self.characters))


def load(folder) -> CharTokenizer:
    """Reads a folder written by `save`."""
    content = json.loads((folder / FILE).read_bytes().decode())
    return CharTokenizer(**content)


def train(
    texts: Iterable[str], *, end_of_text: bool, mask: bool = False, sentinels: int = 0
) -> CharTokenizer:
    """The tokenizer with the characters of `texts`."""
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    return CharTokenizer("".join(sorted(characters)), end_of_text, mask, sentinels)
