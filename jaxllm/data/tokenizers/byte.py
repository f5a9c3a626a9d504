"""One id per byte of UTF-8: any text in any language, nothing to train (as in ByT5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxllm.data.tokenizers.base import Tokenizer

FILE = "bytes.json"


class ByteTokenizer(Tokenizer):
    """Ids 0-255 are the bytes; then begin of text, end of text and padding."""

    kind = "byte"
    vocab_size = 259
    bos_id, eos_id, pad_id = 256, 257, 258

    def __init__(self):
        self.files = {FILE: b'{"bytes": 256}\n'}

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        values = np.asarray(ids, np.int64)
        return values[values < 256].astype(np.uint8).tobytes().decode(errors="replace")


def load(folder) -> ByteTokenizer:
    """The tokenizer: there is only one."""
    return ByteTokenizer()
