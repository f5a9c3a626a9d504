"""What every tokenizer offers, and how it is saved and recognised again."""

from __future__ import annotations

import abc
import functools
import hashlib
import json
import os
from collections.abc import Sequence

from jaxllm.core.paths import atomic_write_bytes, atomic_write_text, make_directory

METADATA = "jaxllm_tokenizer.json"


class Tokenizer(abc.ABC):
    """Text to token ids and back. `decode(encode(text)) == text` for every kind trained here."""

    kind: str  # the file of this package
    vocab_size: int  # ids are 0 … vocab_size - 1
    files: dict[str, bytes]  # what defines the tokenizer, by file name
    bos_id: int | None = None  # None: the tokenizer has no such token
    eos_id: int | None = None
    pad_id: int | None = None
    unk_id: int | None = None

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens have none, broken UTF-8 becomes U+FFFD."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return [self.encode(text) for text in texts]

    def token_text(self, token: int) -> str:
        """How to show a single id to a person."""
        return self.decode([token])

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of the kind, the special ids and the files: equal hashes give equal ids."""
        digest = hashlib.sha256(json.dumps([self.kind, self._special_ids()]).encode())
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        return digest.hexdigest()

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the tokenizer folder; `tokenizers.load` reads it.

        Raises:
          UserError: the folder cannot be written.
        """
        folder = make_directory(folder)
        for name, content in self.files.items():
            atomic_write_bytes(folder / name, content)
        metadata = {"kind": self.kind, "vocab_size": self.vocab_size, **self._special_ids()}
        metadata["hash"] = self.hash
        atomic_write_text(folder / METADATA, json.dumps(metadata, indent=1) + "\n")

    def _special_ids(self) -> dict[str, int | None]:
        return {name: getattr(self, name) for name in ("bos_id", "eos_id", "pad_id", "unk_id")}
