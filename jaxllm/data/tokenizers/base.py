"""What every tokenizer offers, and how it is saved and recognised again."""

from __future__ import annotations

import abc
import copy
import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.core.paths import atomic_write_bytes, atomic_write_text, make_directory
from jaxllm.data.tokenizers import chat

METADATA = "jaxllm_tokenizer.json"
MASK = "<mask>"
# The special ids, and the text that stands for them where the tokenizer has none of its own.
ROLES = {
    "bos_id": "<s>", "eos_id": "</s>", "pad_id": "<pad>", "unk_id": "<unk>", "mask_id": MASK,
    "cls_id": "<s>", "sep_id": "</s>",
}
CHAT_ROLES = ("bos_id", "eos_id", "cls_id", "sep_id")  # that chat templates write
HASHED = ("bos_id", "eos_id", "pad_id", "unk_id")  # the files decide the others
FIRST, SECOND = -1, -2  # the places of the texts in a wrapping
Wrapping = tuple[tuple[int, int], ...]  # (id, or FIRST or SECOND; token type) in order
Encoded = tuple[list[int], list[int]]  # ids, and the place of each one's last character
SPACE = "\u2581"  # what SentencePiece writes for a space
CLOSING = " \"')]}»”’" + SPACE  # may follow the end of a sentence in its token
ENDS = (".", "!", "?", "\n", "…", "。", "！", "？", "।", "؟")
BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def sentinel(index: int) -> str:
    """The text of T5's sentinel `index`, which stands for the span dropped as the index-th."""
    return f"<extra_id_{index}>"


def piece_text(piece: str) -> str:
    """The text of a SentencePiece piece; a byte that is no character alone is U+FFFD."""
    if match := BYTE_PIECE.fullmatch(piece):
        return bytes([int(match[1], 16)]).decode(errors="replace")
    return piece.replace(SPACE, " ")


def character_of_bytes(data: bytes) -> list[int]:
    """For each byte of a text in UTF-8 the place of its character."""
    begins = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    return (np.cumsum(begins) - 1).tolist()


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """The ids with a meaning of their own: what an objective needs to know of a tokenizer."""

    vocab_size: int
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    unk_id: int | None = None
    mask_id: int | None = None
    cls_id: int | None = None  # first of a row (BERT); the beginning of text where there is none
    sep_id: int | None = None  # after each text; the end of text where there is none
    sentinel_ids: tuple[int, ...] = ()
    special_ids: frozenset[int] = frozenset()


class Tokenizer(abc.ABC):
    """Text to token ids and back. `decode(encode(text)) == text` for every kind trained here."""

    kind: str  # the file of this package
    vocab_size: int  # ids are 0 … vocab_size - 1
    files: dict[str, bytes]  # what defines the tokenizer, by file name
    bos_id: int | None = None  # None: the tokenizer has no such token
    eos_id: int | None = None
    pad_id: int | None = None
    unk_id: int | None = None
    mask_id: int | None = None
    cls_id: int | None = None
    sep_id: int | None = None
    sentinel_ids: tuple[int, ...] = ()  # <extra_id_0> first
    chat_template: str | None = None  # jinja2, as tokenizer_config.json has it
    own_template: str | None = None  # one that was given to it, which stands before those it had

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens have none, broken UTF-8 becomes U+FFFD."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return [self.encode(text) for text in texts]

    @abc.abstractmethod
    def encode_places(self, texts: Sequence[str]) -> list[Encoded]:
        """The ids of each text, and the place of the last character that each stands for.

        The places never fall. Of a character that is several tokens all have its place.
        """

    def encode_chat(self, texts: Sequence[str]) -> list[Encoded]:
        """`encode_places` of what a chat template wrote: special tokens that it names count.

        A Hugging Face tokenizer knows them in any text; here they are cut out of it.
        """
        names = {
            self.token_text(token): token for role in CHAT_ROLES
            if (token := getattr(self, role)) is not None
        }
        if not names:
            return self.encode_places(texts)
        cut = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
        return [self._encode_around(text, cut, names) for text in texts]

    def _encode_around(self, text: str, cut: re.Pattern, names: Mapping[str, int]) -> Encoded:
        special, pieces, start = [], [], 0
        for match in cut.finditer(text):
            special.append((names[match[0]], match.end() - 1))
            pieces.append((start, text[start : match.start()]))
            start = match.end()
        pieces.append((start, text[start:]))
        ids, places = [], []
        encoded = self.encode_places([piece for _, piece in pieces])
        for number, ((start, _), (own, own_places)) in enumerate(zip(pieces, encoded, strict=True)):
            ids += own
            places += [start + place for place in own_places]
            if number < len(special):
                ids.append(special[number][0])
                places.append(special[number][1])
        return ids, places

    def with_chat_template(self, template: str) -> Tokenizer:
        """The same tokenizer, writing conversations with another template; saved with it."""
        other = copy.copy(self)
        other.chat_template = other.own_template = template
        return other

    def with_special_tokens(
        self, ids: Sequence[int], second: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """A text's ids (or a pair's) as its family wraps them, and their token types.

        A Hugging Face tokenizer does what transformers does with `add_special_tokens=True`. One
        trained here puts a text between `cls` and `sep` where it has a mask token, the end of text
        after it where it has sentinels only, and else adds nothing.
        """
        wrapping = self.wrapping[second is not None]
        texts = {FIRST: ids, SECOND: second}
        wrapped, types = [], []
        for part, kind in wrapping:
            new = texts.get(part, [part])
            wrapped += new
            types += [kind] * len(new)
        return wrapped, types

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The text of a conversation: messages of `role` and `content`, tools as JSON schemas.

        Raises:
          UserError: there is no template, or it refuses these messages.
        """
        template = self.chat_template_for(tools)
        if template is None:
            raise UserError(
                f"The tokenizer ({self.kind}) has no chat template: use the tokenizer of a chat "
                "model, put a chat_template.jinja into its folder, or name one when you train "
                f"(data.chat_template: {', '.join(chat.templates())})."
            )
        return chat.render(template, messages, add_generation_prompt, tools, self.special_names())

    def chat_template_for(self, tools: Sequence[Mapping[str, Any]] | None) -> str | None:
        """The template for a conversation with or without tools."""
        return self.chat_template

    def special_names(self) -> dict[str, str]:
        """The texts of the special tokens, by the names that chat templates know: bos_token …"""
        ids = {role: getattr(self, role) for role in ROLES}
        return {
            role.removesuffix("id") + "token": self.token_text(token)
            for role, token in ids.items() if token is not None
        }

    def token_text(self, token: int) -> str:
        """How to show a single id to a person: its text, or the name of a special token."""
        names = {getattr(self, role): name for role, name in reversed(ROLES.items())}
        names.update((i, sentinel(index)) for index, i in enumerate(self.sentinel_ids))
        return names[token] if token in names else self.decode([token])

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text."""
        roles = (getattr(self, role) for role in ROLES)
        return frozenset(token for token in (*roles, *self.sentinel_ids) if token is not None)

    @functools.cached_property
    def run_ids(self) -> frozenset[int]:
        """Ids whose text depends on the ids after them, as bytes decoded a run at a time."""
        return frozenset()

    def special_tokens(self) -> SpecialTokens:
        """The ids with a meaning of their own."""
        roles = {role: getattr(self, role) for role in ROLES}
        if self.cls_id is None:
            roles["cls_id"] = self.bos_id
        if self.sep_id is None:
            roles["sep_id"] = self.eos_id
        return SpecialTokens(
            self.vocab_size, **roles, sentinel_ids=self.sentinel_ids, special_ids=self.special_ids,
        )

    def word_starts(self) -> np.ndarray:
        """Bool [vocab_size]: the token begins a word, or is special. Read-only."""
        return self._word_starts

    def sentence_ends(self) -> np.ndarray:
        """Bool [vocab_size]: the token ends a sentence, a line or the text. Read-only."""
        return self._sentence_ends

    @functools.cached_property
    def _word_starts(self) -> np.ndarray:
        starts = np.array([self._begins_word(token) for token in range(self.vocab_size)])
        starts[list(self.special_ids)] = True
        starts.flags.writeable = False
        return starts

    @functools.cached_property
    def _sentence_ends(self) -> np.ndarray:
        texts = map(self._surface, range(self.vocab_size))
        ends = np.array([text.rstrip(CLOSING).endswith(ENDS) for text in texts])
        ends[list(self.special_ids)] = False
        ends[[token for token in (self.eos_id, self.sep_id) if token is not None]] = True
        ends.flags.writeable = False
        return ends

    def _surface(self, token: int) -> str:
        """The text that the token adds to a longer one."""
        return self.token_text(token)

    def _begins_word(self, token: int) -> bool:
        return self._surface(token)[:1].isspace()

    @functools.cached_property
    def wrapping(self) -> tuple[Wrapping, Wrapping]:
        """How a text, and how a pair of texts, is wrapped."""
        start: Wrapping = () if self.cls_id is None else ((self.cls_id, 0),)
        end = self.eos_id if self.sep_id is None and self.sentinel_ids else self.sep_id
        ends: list[Wrapping] = [() if end is None else ((end, kind),) for kind in (0, 1)]
        single = (*start, (FIRST, 0), *ends[0])
        return single, (*single, (SECOND, 1), *ends[1])

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of the kind, the special ids and the files: equal hashes give equal ids."""
        ids = {role: getattr(self, role) for role in HASHED}
        digest = hashlib.sha256(json.dumps([self.kind, ids]).encode())
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
        metadata = {"kind": self.kind, "vocab_size": self.vocab_size}
        metadata.update({role: getattr(self, role) for role in ROLES})
        metadata.update(sentinel_ids=list(self.sentinel_ids), hash=self.hash)
        if self.own_template is not None:
            metadata["chat_template"] = self.own_template
        atomic_write_text(folder / METADATA, json.dumps(metadata, indent=1) + "\n")
