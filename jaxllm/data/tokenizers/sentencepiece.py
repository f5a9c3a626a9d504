"""SentencePiece, unigram or BPE, with byte fallback: any text can be written and comes back exact.

Normalisation is the identity and no space is added or removed, so that code, tables and verse
survive. One character does not come back: U+2581, which SentencePiece itself writes for a space.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence

import sentencepiece
from sentencepiece import sentencepiece_model_pb2, sentencepiece_pb2

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers.base import (
    MASK,
    SPACE,
    Encoded,
    Tokenizer,
    character_of_bytes,
    piece_text,
    sentinel,
)

FILE = "tokenizer.model"
MODEL_TYPES = ("unigram", "bpe")
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # types of pieces
PIECE_OF_TEXT = 2048  # characters given to the trainer at a time: it skips long sentences
# The result depends on the number of threads, because sums of floats are split among them; so it
# is a constant rather than the machine's.
THREADS = 2


class SentencePieceTokenizer(Tokenizer):
    """A trained SentencePiece model.

    Its special tokens are control symbols: they stand for no text, and no text makes them.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes):
        self.files = {FILE: model}
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self._processor.vocab_size()
        for name in ("bos_id", "eos_id", "pad_id", "unk_id"):
            token = getattr(self._processor, name)()
            setattr(self, name, token if token >= 0 else None)
        self.mask_id = self._control(MASK)
        if self.mask_id is not None:
            self.cls_id, self.sep_id = self.bos_id, self.eos_id
        found, index = [], 0
        while (token := self._control(sentinel(index))) is not None:
            found.append(token)
            index += 1
        self.sentinel_ids = tuple(found)

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts), num_threads=THREADS)

    def encode_places(self, texts: Sequence[str]) -> list[Encoded]:
        protos = self._processor.encode(
            list(texts), out_type="serialized_proto", num_threads=THREADS
        )
        return [places_of(proto, text) for proto, text in zip(protos, texts, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([int(i) for i in ids])

    def token_text(self, token: int) -> str:
        return self._processor.id_to_piece(int(token)).replace(SPACE, " ")

    def _surface(self, token: int) -> str:
        return piece_text(self._processor.id_to_piece(token))

    def proto(self) -> sentencepiece_model_pb2.ModelProto:
        """The pieces with scores and types, and how they were trained."""
        return sentencepiece_model_pb2.ModelProto.FromString(self.files[FILE])

    def _control(self, piece: str) -> int | None:
        """The id of a control symbol, which no text is encoded to."""
        token = self._processor.piece_to_id(piece)
        known = self._processor.id_to_piece(token) == piece
        return token if known and self._processor.is_control(token) else None


def places_of(serialized: bytes, text: str) -> Encoded:
    """Ids and places of the encoded `text`, whose pieces have their bytes' offsets.

    Of the tokens that are bytes of one character all but the last span nothing.
    """
    pieces = sentencepiece_pb2.SentencePieceText.FromString(serialized).pieces
    ids = [piece.id for piece in pieces]
    places = [max(piece.end - 1, piece.begin) for piece in pieces]
    if not text.isascii():
        character = character_of_bytes(text.encode())
        places = [character[min(place, len(character) - 1)] for place in places]
    return ids, places


def load(folder) -> SentencePieceTokenizer:
    """Reads a folder written by `save`."""
    return SentencePieceTokenizer((folder / FILE).read_bytes())


def train(
    texts: Iterable[str], *, vocab_size: int, model_type: str, character_coverage: float,
    user_symbols: Sequence[str], mask: bool = False, sentinels: int = 0,
) -> SentencePieceTokenizer:
    """A tokenizer of `vocab_size` ids trained on `texts`, special tokens among them.

    Raises:
      UserError: the texts are too small for the vocabulary, or it too small for them.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts), model_writer=model,
            vocab_size=vocab_size - sentinels, model_type=model_type,
            character_coverage=character_coverage,
            user_defined_symbols=[symbol.replace(" ", SPACE) for symbol in user_symbols],
            control_symbols=[MASK] if mask else [], byte_fallback=True, split_digits=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False,
            add_dummy_prefix=False, allow_whitespace_only_pieces=True, unk_id=0, bos_id=1,
            eos_id=2, pad_id=3, max_sentence_length=8 * PIECE_OF_TEXT, num_threads=THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(str(error), vocab_size, sentinels) from error
    return SentencePieceTokenizer(_with_sentinels(model.getvalue(), sentinels))


def _with_sentinels(model: bytes, number: int) -> bytes:
    """As T5 has them: behind all pieces, <extra_id_0> last."""
    if not number:
        return model
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for index in reversed(range(number)):
        proto.pieces.add(piece=sentinel(index), score=0.0, type=CONTROL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString(deterministic=True)


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


def _explain(error: str, vocab_size: int, sentinels: int) -> UserError:
    field = f"tokenizer.vocab_size={vocab_size}"
    if match := re.search(r"too high.*?<= (\d+)", error):
        works = int(match[1]) + sentinels
        return UserError(
            f"{field} is too large for this corpus, which has not enough different text. The "
            f"largest that works is {works}: set --config.tokenizer.vocab_size={works}, or "
            "add text."
        )
    if match := re.search(r"smaller than required_chars\. \d+ vs (\d+)", error):
        taken = int(match[1]) + sentinels
        return UserError(
            f"{field} is too small for this corpus: its characters, the 256 bytes and the special "
            f"tokens alone take {taken}. Set --config.tokenizer.vocab_size to more than "
            f"{taken}, or lower tokenizer.character_coverage."
        )
    return UserError(f"{field}: SentencePiece could not be trained: {error.strip()}")
