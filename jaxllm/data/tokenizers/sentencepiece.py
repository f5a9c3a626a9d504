"""SentencePiece, unigram or BPE, with byte fallback: any text can be written and comes back exact.

Normalisation is the identity and no space is added or removed, so that code, tables and verse
survive. One character does not come back: U+2581, which SentencePiece itself writes for a space.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence

import sentencepiece

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers.base import Tokenizer

FILE = "tokenizer.model"
MODEL_TYPES = ("unigram", "bpe")
PIECE_OF_TEXT = 2048  # characters given to the trainer at a time: it skips long sentences
# The result depends on the number of threads, because sums of floats are split among them; so it
# is a constant rather than the machine's.
THREADS = 2


class SentencePieceTokenizer(Tokenizer):
    """A trained SentencePiece model."""

    kind = "sentencepiece"

    def __init__(self, model: bytes):
        self.files = {FILE: model}
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self._processor.vocab_size()
        for name in ("bos_id", "eos_id", "pad_id", "unk_id"):
            token = getattr(self._processor, name)()
            setattr(self, name, token if token >= 0 else None)

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts), num_threads=THREADS)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([int(i) for i in ids])

    def token_text(self, token: int) -> str:
        return self._processor.id_to_piece(token).replace("\u2581", " ")


def load(folder) -> SentencePieceTokenizer:
    """Reads a folder written by `save`."""
    return SentencePieceTokenizer((folder / FILE).read_bytes())


def train(
    texts: Iterable[str], *, vocab_size: int, model_type: str, character_coverage: float,
    user_symbols: Sequence[str],
) -> SentencePieceTokenizer:
    """A tokenizer of `vocab_size` ids trained on `texts`.

    Raises:
      UserError: the texts are too small for the vocabulary, or it too small for them.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts), model_writer=model, vocab_size=vocab_size,
            model_type=model_type, character_coverage=character_coverage,
            user_defined_symbols=list(user_symbols),
            byte_fallback=True, split_digits=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, add_dummy_prefix=False,
            allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, pad_id=3,
            max_sentence_length=8 * PIECE_OF_TEXT, num_threads=THREADS, minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(str(error), vocab_size) from error
    return SentencePieceTokenizer(model.getvalue())


def _sentences(texts: Iterable[str]) -> Iterable[str]:
    """Pieces that end with a line where that is possible."""
    for text in texts:
        start = 0
        while start < len(text):
            end = min(start + PIECE_OF_TEXT, len(text))
            newline = text.rfind("\n", start, end)
            if end < len(text) and newline > start:
                end = newline + 1
            yield text[start:end]
            start = end


def _explain(error: str, vocab_size: int) -> UserError:
    field = f"tokenizer.vocab_size={vocab_size}"
    if match := re.search(r"too high.*?<= (\d+)", error):
        return UserError(
            f"{field} is too large for this corpus, which has not enough different text. The "
            f"largest that works is {match[1]}: set --config.tokenizer.vocab_size={match[1]}, or "
            "add text."
        )
    if match := re.search(r"smaller than required_chars\. \d+ vs (\d+)", error):
        return UserError(
            f"{field} is too small for this corpus: its characters, the 256 bytes and the special "
            f"tokens alone take {match[1]}. Set --config.tokenizer.vocab_size to more than "
            f"{match[1]}, or lower tokenizer.character_coverage."
        )
    return UserError(f"{field}: SentencePiece could not be trained: {error.strip()}")
