"""The tokenizer.json of a Hugging Face model, read by the library `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Sequence

import tokenizers

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers.base import Tokenizer

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
# Where tokenizer_config.json names none: the tokens that the published models use.
USUAL = {
    "bos": ("<|begin_of_text|>", "<bos>", "<s>", "<|startoftext|>", "[CLS]"),
    "eos": ("<|end_of_text|>", "<eos>", "</s>", "<|endoftext|>", "[SEP]"),
    "pad": ("<pad>", "[PAD]", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>", "[UNK]"),
}


class HuggingFaceTokenizer(Tokenizer):
    """Ids as transformers gives them with `add_special_tokens=False`."""

    kind = "huggingface"

    def __init__(self, files: dict[str, bytes]):
        self.files = files
        self._tokenizer = tokenizers.Tokenizer.from_str(files[FILE].decode())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        config = json.loads(files.get(CONFIG, b"{}"))
        for role in USUAL:
            setattr(self, f"{role}_id", self._special(role, config.get(f"{role}_token")))

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def token_text(self, token: int) -> str:
        return self._tokenizer.id_to_token(token) or ""

    def _special(self, role: str, named: str | dict | None) -> int | None:
        name = named["content"] if isinstance(named, dict) else named
        if name is not None:
            return self._tokenizer.token_to_id(name)
        found = (self._tokenizer.token_to_id(usual) for usual in USUAL[role])
        return next((token for token in found if token is not None), None)


def load(folder) -> HuggingFaceTokenizer:
    """Reads a Hugging Face folder, or one written by `save`.

    Raises:
      UserError: tokenizer.json is not one.
    """
    files = {name: (folder / name).read_bytes() for name in (FILE, CONFIG)
             if (folder / name).exists()}
    try:
        return HuggingFaceTokenizer(files)
    except Exception as error:  # the library raises plain Exception
        raise UserError(
            f"{folder / FILE} cannot be read as a tokenizer: {error}. Copy it again."
        ) from error
