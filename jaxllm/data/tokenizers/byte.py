"""One id per byte of UTF-8: any text in any language, nothing to train (as in ByT5)."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from jaxllm.data.tokenizers.base import Encoded, Tokenizer, character_of_bytes

FILE = "bytes.json"
BYTES = 256


class ByteTokenizer(Tokenizer):
    """Ids 0-255 are the bytes; then begin of text, end of text and padding.

    A mask token and T5's sentinels, <extra_id_0> last, follow when they are asked for.
    """

    kind = "byte"
    bos_id, eos_id, pad_id = 256, 257, 258

    def __init__(self, mask: bool = False, sentinels: int = 0):
        self.vocab_size = 259 + mask + sentinels
        if mask:
            self.mask_id, self.cls_id, self.sep_id = 259, self.bos_id, self.eos_id
        self.sentinel_ids = tuple(self.vocab_size - 1 - i for i in range(sentinels))
        content: dict[str, int] = {"bytes": BYTES}
        if mask:
            content["mask"] = 1
        if sentinels:
            content["sentinels"] = sentinels
        self.files = {FILE: json.dumps(content).encode() + b"\n"}

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_places(self, texts: Sequence[str]) -> list[Encoded]:
        return [(list(data), character_of_bytes(data)) for data in map(str.encode, texts)]

    def decode(self, ids: Sequence[int]) -> str:
        values = np.asarray(ids, np.int64)
        return values[values < BYTES].astype(np.uint8).tobytes().decode(errors="replace")


def load(folder) -> ByteTokenizer:
    """Reads a folder written by `save`."""
    content = json.loads((folder / FILE).read_text())
    return ByteTokenizer(bool(content.get("mask", 0)), content.get("sentinels", 0))
