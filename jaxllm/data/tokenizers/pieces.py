"""A Hugging Face folder's tokenizer.model or spiece.model, run by sentencepiece (Llama 2, T5 …).

SentencePiece knows its own pieces alone. The tokens that transformers adds behind them, and all
special ones, are cut out of the text first, by the library `tokenizers` as transformers does it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, decoders, models

from jaxllm.data.tokenizers.base import (
    FIRST,
    SECOND,
    SPACE,
    Encoded,
    Wrapping,
    piece_text,
    sentinel,
)
from jaxllm.data.tokenizers.sentencepiece import places_of

FILES = ("tokenizer.model", "spiece.model")
CONTROL, USER_DEFINED = 3, 4  # piece types
T5_SENTINELS = 100  # where tokenizer_config.json does not say
TEXT = "\0text"  # what the cutter calls everything that is no added token


class Pieces:
    """The backend of sentencepiece."""

    def __init__(
        self, model: bytes, added: Mapping[int, AddedToken], special: Iterable[AddedToken],
        config: Mapping[str, Any],
    ):
        """`added` are tokens with ids of their own, `special` those named for a role."""
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        self._own = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._t5 = proto.normalizer_spec.remove_extra_whitespaces
        self._prefix = proto.normalizer_spec.add_dummy_prefix
        self._inner = self._own
        if self._prefix and not self._t5 and not config.get("legacy", False):
            # the text after a special token is no beginning: it gets no space
            proto.normalizer_spec.add_dummy_prefix = False
            self._inner = sentencepiece.SentencePieceProcessor(
                model_proto=proto.SerializeToString()
            )
        self._config = config
        self._runs = bool(proto.trainer_spec.byte_fallback)
        self._names = {i: piece.piece for i, piece in enumerate(proto.pieces)}
        self._names.update((token, entry.content) for token, entry in added.items())
        self._ids = {name: token for token, name in self._names.items()}
        tokens = {
            piece.piece: AddedToken(piece.piece, normalized=False, special=piece.type == CONTROL)
            for piece in proto.pieces if piece.type in (CONTROL, USER_DEFINED)
        }
        tokens.update((entry.content, entry) for entry in added.values())
        for entry in special:
            if entry.content not in tokens or not tokens[entry.content].special:
                tokens[entry.content] = entry
            self._ids.setdefault(entry.content, 1 + max(self._names))
            self._names.setdefault(self._ids[entry.content], entry.content)
        self.vocab_size = 1 + max(self._names)
        self._special = frozenset(self._ids[n] for n, entry in tokens.items() if entry.special)
        self._cutter = tokenizers.Tokenizer(models.WordLevel({TEXT: 0}, unk_token=TEXT))
        self._cutter.add_tokens(list(tokens.values()))
        self._cutter.encode_special_tokens = bool(config.get("split_special_tokens", False))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        cuts = self._cutter.encode_batch(texts, add_special_tokens=False)
        return [self._encode(text, cut) for text, cut in zip(texts, cuts, strict=True)]

    def _encode(self, text: str, cut: tokenizers.Encoding) -> list[int]:
        ids: list[int] = []
        for name, (start, end) in zip(cut.tokens, cut.offsets, strict=True):
            if name == TEXT:
                ids += (self._inner if start else self._own).encode(text[start:end])
            else:
                ids.append(self._ids[name])
        return ids

    def encode_places(self, texts: list[str]) -> list[Encoded]:
        cuts = self._cutter.encode_batch(texts, add_special_tokens=False)
        return [self._places(text, cut) for text, cut in zip(texts, cuts, strict=True)]

    def _places(self, text: str, cut: tokenizers.Encoding) -> Encoded:
        ids, places = [], []
        for name, (start, end) in zip(cut.tokens, cut.offsets, strict=True):
            if name == TEXT:
                processor = self._inner if start else self._own
                piece = text[start:end]
                own, own_places = places_of(
                    processor.encode(piece, out_type="serialized_proto"), piece
                )
                ids += own
                places += [min(start + place, end - 1) for place in own_places]
            else:
                ids.append(self._ids[name])
                places.append(end - 1)
        return ids, places

    def decode(self, ids: list[int]) -> str:
        names = [self._names.get(i, "") for i in ids if i not in self._special]
        return self._decoder.decode(names)

    def id_of(self, name: str) -> int | None:
        return self._ids.get(name)

    def role_id(self, role: str) -> int | None:
        """What the model itself says: bos, eos, pad or unk."""
        token = getattr(self._own, f"{role}_id")() if role in ("bos", "eos", "pad", "unk") else -1
        return token if token >= 0 else None

    def piece(self, token: int) -> str:
        return self._names.get(token, "").replace(SPACE, " ")

    def surface(self, token: int) -> str:
        """The text that the token adds to a longer one."""
        return piece_text(self._names.get(token, ""))

    def begins_word(self, token: int) -> bool:
        return self.surface(token)[:1].isspace()

    def special_ids(self) -> frozenset[int]:
        return self._special

    def run_ids(self) -> frozenset[int]:
        if not self._runs:
            return frozenset()
        return frozenset(i for i in range(self._own.vocab_size()) if self._own.is_byte(i))

    def wrapping(self) -> tuple[Wrapping, Wrapping]:
        """As the classes of transformers: x </s> for T5, else <bos> x where not told otherwise."""
        bos, eos = self.role_id("bos"), self.role_id("eos")
        begin = bos is not None and self._config.get("add_bos_token", not self._t5)
        end = eos is not None and self._config.get("add_eos_token", self._t5)
        single: list[Wrapping] = []
        for text, kind in ((FIRST, 0), (SECOND, 0 if self._t5 else 1)):
            single.append((
                *(((bos, kind),) if begin else ()), (text, kind), *(((eos, kind),) if end else ()),
            ))
        return single[0], single[0] + single[1]

    @functools.cached_property
    def _decoder(self) -> decoders.Decoder:
        steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        if self._prefix:
            steps.append(decoders.Strip(" ", 1, 0))
        return decoders.Sequence(steps)


def added_tokens(
    model: bytes, listed: Mapping[int, AddedToken], names: Mapping[str, Any],
) -> dict[int, AddedToken]:
    """`listed` with T5's sentinels, which follow the model's pieces: <extra_id_0> comes last."""
    own = sentencepiece.SentencePieceProcessor(model_proto=model).vocab_size()
    extra = names.get("additional_special_tokens") or names.get("extra_special_tokens") or ()
    number = sum("<extra_id_" in str(name) for name in extra)
    t5 = str(names.get("tokenizer_class", "")).removesuffix("Fast") == "T5Tokenizer"
    number = int(names.get("extra_ids", T5_SENTINELS if t5 else 0)) or number
    added = {
        own + number - 1 - i: AddedToken(sentinel(i), normalized=False, special=True)
        for i in range(number)
    }
    return {**added, **listed}
