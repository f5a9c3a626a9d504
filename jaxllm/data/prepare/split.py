"""Which documents are for training and which for validation, decided one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from jaxllm.data.prepare.documents import Document

TRAIN, VALIDATION = "train", "validation"


def hash_fraction(text: str, purpose: str) -> float:
    """A number in [0, 1) that depends on the text and the purpose alone: stable over machines,
    file order and what else is in the corpus."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "little") / 2**64


def is_validation(document: Document, validation_share: float) -> bool:
    """Whether a document is for validation; equal documents, and those of one group, agree."""
    return hash_fraction(document.group or document.text, "split") < validation_share


def by_document(
    documents: Iterable[Document], validation_share: float
) -> Iterator[tuple[str, str]]:
    """(split, text) of each document."""
    for document in documents:
        chosen = is_validation(document, validation_share)
        yield (VALIDATION if chosen else TRAIN), document.text


def cut_place(characters: int, validation_share: float) -> int:
    """The characters before the validation part, rounded down as nanoGPT does."""
    return int(characters * (1 - validation_share))


def by_position(
    documents: Iterable[Document], cut: int, place: int = 0
) -> Iterator[tuple[str, str]]:
    """(split, text) with the first `cut` characters of the corpus for training.

    The first of the documents begins at character `place` of the corpus; the one across the cut is
    cut in two.
    """
    for document in documents:
        text = document.text
        before = min(max(cut - place, 0), len(text))
        if before:
            yield TRAIN, text[:before]
        if before < len(text):
            yield VALIDATION, text[before:]
        place += len(text)
