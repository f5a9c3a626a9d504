"""A Hugging Face folder's tokenizer as the library `tokenizers` runs it.

From tokenizer.json (byte-level BPE, WordPiece, Unigram), or built from the files that came before
it: vocab.json with merges.txt (GPT-2, RoBERTa, BART) and vocab.txt (BERT).
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers.base import (
    BYTE_PIECE,
    FIRST,
    SECOND,
    SPACE,
    Encoded,
    Wrapping,
    piece_text,
)

FILE = "tokenizer.json"
VOCABULARY, MERGES, WORDS = "vocab.json", "merges.txt", "vocab.txt"
MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")


class Fast:
    """The backend of the library `tokenizers`."""

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, added: Iterable[AddedToken], split_special: bool
    ):
        """`added` are the tokens that the folder's other files name."""
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        known = {entry.content for entry in tokenizer.get_added_tokens_decoder().values()}
        for token in added:
            if token.content not in known:
                tokenizer.add_tokens([token])
        tokenizer.encode_special_tokens = split_special
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(vocabulary.values())
        self._names = {token: name for name, token in vocabulary.items()}
        self._added = tokenizer.get_added_tokens_decoder()
        self._word_piece = isinstance(tokenizer.model, models.WordPiece)
        decoder = b"" if tokenizer.decoder is None else tokenizer.decoder.__getstate__()  # its JSON
        self._byte_level, self._byte_runs = b'"ByteLevel"' in decoder, b'"ByteFallback"' in decoder
        self._whole_words = isinstance(tokenizer.model, models.WordLevel)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text.

        Raises:
          UserError: a text with a character for which the model has no token, not even "unknown".
        """
        with _naming_text():
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_places(self, texts: list[str]) -> list[Encoded]:
        """Ids and places; raises as `encode_batch`."""
        with _naming_text():
            encodings = self._untrimmed.encode_batch(texts, add_special_tokens=False)
        return [
            (encoding.ids, _last(encoding.offsets, len(text)))
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def id_of(self, name: str) -> int | None:
        return self._tokenizer.token_to_id(name)

    def piece(self, token: int) -> str:
        """The token to show: "Ġ" and "▁" are spaces, "##" stays."""
        name = self._names.get(token, "")
        if token in self._added:
            return name
        if self._byte_level:
            return self._bytes.decode([name])
        return name.replace(SPACE, " ")

    def surface(self, token: int) -> str:
        """The text that the token adds to a longer one."""
        if token in self._added or self._byte_level:
            return self.piece(token)
        if self._word_piece:
            return self._names.get(token, "").removeprefix("##")
        return piece_text(self._names.get(token, ""))

    def begins_word(self, token: int) -> bool:
        if self._word_piece:
            return not self._names.get(token, "").startswith("##")
        return self._whole_words or self.surface(token)[:1].isspace()

    def special_ids(self) -> frozenset[int]:
        return frozenset(token for token, entry in self._added.items() if entry.special)

    def run_ids(self) -> frozenset[int]:
        if not self._byte_runs:
            return frozenset()
        return frozenset(i for i, name in self._names.items() if BYTE_PIECE.fullmatch(name))

    def wrapping(self) -> tuple[Wrapping, Wrapping] | None:
        """What the post-processor puts around a text and a pair; None if there is no text to try.

        It cannot be asked, but it marks what it adds.
        """
        candidates = ("a", "A", "0", " a", *(self._names[i] for i in sorted(self._names)[:50]))
        for text in candidates:
            try:
                probe = self._tokenizer.encode(text, add_special_tokens=False)
            except Exception:  # a model without an unknown token refuses what it does not know
                continue
            if probe.ids and not any(probe.special_tokens_mask):
                single = self._tokenizer.post_process(probe)
                again = self._tokenizer.encode(text, add_special_tokens=False)
                pair = self._tokenizer.post_process(probe, again)
                return _wrapping(single, len(probe.ids)), _wrapping(pair, len(probe.ids))
        return None

    @functools.cached_property
    def _untrimmed(self) -> tokenizers.Tokenizer:
        """The tokenizer without its post-processor, which may take spaces out of the offsets."""
        made = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        made.post_processor = None
        made.encode_special_tokens = self._tokenizer.encode_special_tokens
        return made

    @functools.cached_property
    def _bytes(self) -> decoders.Decoder:
        return decoders.ByteLevel()


def _last(offsets: list[tuple[int, int]], length: int) -> list[int]:
    """The place of each token's last character; one that spans nothing has that where it stands."""
    spans = np.array(offsets, np.int64).reshape(-1, 2)
    return np.minimum(np.maximum(spans[:, 1] - 1, spans[:, 0]), length - 1).tolist()


@contextlib.contextmanager
def _naming_text() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UserError(
            f"The tokenizer cannot write this text: {error}. Remove characters that it does not "
            "know, or use another tokenizer."
        ) from error


def _wrapping(encoding: tokenizers.Encoding, length: int) -> Wrapping:
    """The parts of an encoding in which every text has `length` tokens."""
    parts: list[tuple[int, int]] = []
    seen = 0
    for token, kind, special in zip(
        encoding.ids, encoding.type_ids, encoding.special_tokens_mask, strict=True
    ):
        if special:
            parts.append((token, kind))
            continue
        if seen % length == 0:
            parts.append(((FIRST, SECOND)[seen // length], kind))
        seen += 1
    return tuple(parts)


def from_json(content: bytes) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json.

    Raises:
      UserError: it has a model that there is not.
      Exception: it is damaged, with the library's own words.
    """
    try:
        return tokenizers.Tokenizer.from_str(content.decode())
    except Exception:
        kind = (json.loads(content).get("model") or {}).get("type")
        if kind is None or kind in MODELS:
            raise
    raise UserError(
        f"{FILE} has the model type {kind!r}; the library tokenizers reads {', '.join(MODELS)}. "
        "Use the folder's other tokenizer files, or another tokenizer."
    )


def byte_level(files: Mapping[str, bytes], config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """GPT-2, RoBERTa and BART without tokenizer.json."""
    vocabulary = json.loads(files[VOCABULARY])
    lines = (line.strip() for line in files[MERGES].decode().split("\n"))
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    made = tokenizers.Tokenizer(models.BPE(
        vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False,
    ))
    prefix = bool(config.get("add_prefix_space", False))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    if all(name in vocabulary for name in ("<s>", "</s>", "<mask>")):  # RoBERTa, BART
        made.post_processor = processors.RobertaProcessing(
            ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]), True, prefix
        )
    else:
        begin = _text(config.get("bos_token")) if config.get("add_bos_token") else None
        start = "" if begin is None else f"{begin} "
        made.post_processor = processors.TemplateProcessing(
            single=f"{start}$A", pair=f"{start}$A {start.replace(' ', ':1 ')}$B:1",
            special_tokens=[] if begin is None else [(begin, vocabulary[begin])],
        )
    return made


def word_piece(files: Mapping[str, bytes], config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """BERT without tokenizer.json."""
    pieces = files[WORDS].decode().removesuffix("\n").split("\n")
    vocabulary = {piece.rstrip("\r"): i for i, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(models.WordPiece(
        vocabulary, unk_token=_text(config.get("unk_token")) or "[UNK]"
    ))
    made.normalizer = normalizers.BertNormalizer(
        lowercase=bool(config.get("do_lower_case", True)),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    start = _text(config.get("cls_token")) or "[CLS]"
    end = _text(config.get("sep_token")) or "[SEP]"
    if start in vocabulary and end in vocabulary:
        made.post_processor = processors.TemplateProcessing(
            single=f"{start} $A {end}", pair=f"{start} $A {end} $B:1 {end}:1",
            special_tokens=[(name, vocabulary[name]) for name in (start, end)],
        )
    return made


def _text(token: str | Mapping[str, Any] | None) -> str | None:
    return token["content"] if isinstance(token, Mapping) else token
