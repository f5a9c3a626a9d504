"""Which documents are for training and which for validation, decided one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

TRAIN, VALIDATION = "train", "validation"


def hash_fraction(text: str, purpose: str) -> float:
    """A number in [0, 1) that depends on the text and the purpose alone: stable over machines,
    file order and what else is in the corpus."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "little") / 2**64


def by_document(texts: Iterable[str], validation_share: float) -> Iterator[tuple[str, str]]:
    """(split, text) of each document; equal documents fall into the same split."""
    for text in texts:
        chosen = hash_fraction(text, "split") < validation_share
        yield (VALIDATION if chosen else TRAIN), text


def cut_place(characters: int, validation_share: float) -> int:
    """The characters before the validation part, rounded down as nanoGPT does."""
    return int(characters * (1 - validation_share))


def by_position(texts: Iterable[str], cut: int) -> Iterator[tuple[str, str]]:
    """(split, text) with the first `cut` characters of the corpus for training.

    The document across the cut is cut in two.
    """
    place = 0
    for text in texts:
        before = min(max(cut - place, 0), len(text))
        if before:
            yield TRAIN, text[:before]
        if before < len(text):
            yield VALIDATION, text[before:]
        place += len(text)
