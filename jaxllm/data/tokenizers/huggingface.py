"""The tokenizer of a Hugging Face folder: tokenizer.json, or the files that came before it.

tokenizer.json, vocab.json with merges.txt and vocab.txt are run by the library `tokenizers`
(fast.py), spiece.model and tokenizer.model by sentencepiece (pieces.py). tokenizer_config.json,
special_tokens_map.json and added_tokens.json name the special tokens.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers import fast, pieces
from jaxllm.data.tokenizers.base import MASK, Encoded, Tokenizer, Wrapping, sentinel

CONFIG, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
ADDED, TEMPLATE = "added_tokens.json", "chat_template.jinja"
JSON = (CONFIG, SPECIAL, ADDED)
SHIFTED = "sentencepiece.bpe.model"  # XLM-R, NLLB: transformers renumbers its ids
# every file that belongs to a tokenizer, in a folder that has others too
FILES = (
    fast.FILE, *JSON, TEMPLATE, *pieces.FILES, fast.VOCABULARY, fast.MERGES, fast.WORDS, SHIFTED,
)
# Where no file names one: the tokens that the published models use.
USUAL = {
    "bos": ("<|begin_of_text|>", "<bos>", "<s>", "<|startoftext|>", "[CLS]"),
    "eos": ("<|end_of_text|>", "<eos>", "</s>", "<|endoftext|>", "[SEP]"),
    "pad": ("<pad>", "[PAD]", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>", "[UNK]"),
    "mask": (MASK, "[MASK]"), "cls": ("[CLS]",), "sep": ("[SEP]",),
}
Names = dict[str, Any]  # what the files say: tokens by role, options


class HuggingFaceTokenizer(Tokenizer):
    """Ids as transformers gives them with `add_special_tokens=False`.

    A tokenizer without a beginning or end of text of its own (BERT) has `cls` and `sep` for them.
    """

    kind = "huggingface"

    def __init__(self, files: dict[str, bytes]):
        """`files` are those of FILES that the folder has.

        Raises:
          UserError: they are none of the tokenizers that there are.
          Exception: they are damaged, in the words of whoever read them.
        """
        self.files = files
        names = _names(files)
        self._backend = _backend(files, names)
        self.vocab_size = self._backend.vocab_size
        for role in USUAL:
            setattr(self, f"{role}_id", self._role(role, names))
        if self.mask_id is not None and self.cls_id is None:  # RoBERTa, BART
            self.cls_id, self.sep_id = self.bos_id, self.eos_id
        found, index = [], 0
        while (token := self._backend.id_of(sentinel(index))) is not None:
            found.append(token)
            index += 1
        self.sentinel_ids = tuple(found)
        self._templates = _templates(files, names)
        self.chat_template = self._templates.get("default")
        _ = self.wrapping  # a broken post-processor shows when it is tried

    def encode(self, text: str) -> list[int]:
        return self._backend.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._backend.encode_batch(list(texts))

    def encode_places(self, texts: Sequence[str]) -> list[Encoded]:
        return self._backend.encode_places(list(texts))

    def encode_chat(self, texts: Sequence[str]) -> list[Encoded]:
        return self.encode_places(texts)

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode([int(i) for i in ids])

    def chat_template_for(self, tools) -> str | None:
        named = None if self.own_template else self._templates.get("tool_use")
        return self.chat_template if tools is None or named is None else named

    def token_text(self, token: int) -> str:
        return self._backend.piece(int(token))

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        return super().special_ids | self._backend.special_ids()

    @functools.cached_property
    def run_ids(self) -> frozenset[int]:
        return self._backend.run_ids()

    def _surface(self, token: int) -> str:
        return self._backend.surface(token)

    def _begins_word(self, token: int) -> bool:
        return self._backend.begins_word(token)

    @functools.cached_property
    def wrapping(self) -> tuple[Wrapping, Wrapping]:
        return self._backend.wrapping() or super().wrapping

    def _role(self, role: str, names: Names) -> int | None:
        field = f"{role}_token"
        if field in names:
            name = _text(names[field])
            return None if name is None else self._backend.id_of(name)
        if isinstance(self._backend, pieces.Pieces) and self._backend.role_id(role) is not None:
            return self._backend.role_id(role)
        found = (self._backend.id_of(usual) for usual in USUAL[role])
        return next((token for token in found if token is not None), None)


def _names(files: Mapping[str, bytes]) -> Names:
    """special_tokens_map.json under tokenizer_config.json, each key read once.

    Raises:
      ValueError: a special token that is no text.
    """
    config = _json(files, CONFIG)
    names = {**_json(files, SPECIAL), **config}
    for role in USUAL:
        field = f"{role}_token"
        if field in names and not isinstance(_text(names[field]), str | None):
            raise ValueError(f"{field} is {names[field]!r}, no text")
    return names


def _backend(files: Mapping[str, bytes], names: Names) -> fast.Fast | pieces.Pieces:
    listed = _added_tokens(files, names)
    special = list(_special_tokens(names))
    if fast.FILE not in files:
        for name in pieces.FILES:
            if name in files:
                added = pieces.added_tokens(files[name], listed, names)
                return pieces.Pieces(files[name], added, special, names)
    if fast.FILE in files:
        made = fast.from_json(files[fast.FILE])
    elif {fast.VOCABULARY, fast.MERGES} <= files.keys():
        made = fast.byte_level(files, names)
    elif fast.WORDS in files:
        made = fast.word_piece(files, names)
    else:
        raise _no_tokenizer(files)
    if fast.FILE not in files:
        usual = (name for role in USUAL.values() for name in role)
        special += [
            AddedToken(name, special=True, normalized=False, lstrip=name == MASK)
            for name in usual if made.token_to_id(name) is not None
        ]
    tokens = [*(listed[i] for i in sorted(listed)), *special]
    return fast.Fast(made, tokens, bool(names.get("split_special_tokens", False)))


def _no_tokenizer(files: Mapping[str, bytes]) -> UserError:
    return UserError(
        f"no tokenizer can be made of {', '.join(sorted(files))} alone. Copy the folder's "
        "tokenizer.json too, or make it with transformers: "
        "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)."
    )


def _added_tokens(files: Mapping[str, bytes], names: Names) -> dict[int, AddedToken]:
    """Tokens with the ids that they have: added_tokens_decoder, or the older added_tokens.json."""
    if "added_tokens_decoder" in names:
        return {
            int(token): AddedToken(entry["content"], **{
                flag: bool(entry.get(flag, False))
                for flag in ("lstrip", "rstrip", "single_word", "normalized", "special")
            })
            for token, entry in names["added_tokens_decoder"].items()
        }
    special = {token.content for token in _special_tokens(names)}
    return {
        int(token): AddedToken(name, normalized=name not in special, special=name in special)
        for name, token in _json(files, ADDED).items()
    }


def _special_tokens(names: Names) -> Iterator[AddedToken]:
    """The tokens that have a role, in the order in which transformers adds unknown ones."""
    tokens = [names.get(f"{role}_token") for role in
              ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
    more = names.get("extra_special_tokens") or names.get("additional_special_tokens") or []
    tokens += more.values() if isinstance(more, dict) else more
    seen: set[str] = set()
    for token in tokens:
        name = _text(token)
        if name is None or name in seen:
            continue
        seen.add(name)
        flags = token if isinstance(token, dict) else {}
        yield AddedToken(name, special=True, normalized=bool(flags.get("normalized", False)), **{
            flag: bool(flags.get(flag, False)) for flag in ("lstrip", "rstrip", "single_word")
        })


def _templates(files: Mapping[str, bytes], names: Names) -> dict[str, str]:
    """Chat templates by name; the file takes precedence."""
    if TEMPLATE in files:
        return {"default": files[TEMPLATE].decode()}
    template = names.get("chat_template")
    if isinstance(template, list):  # several by name
        template = {entry["name"]: entry["template"] for entry in template}
    found = template if isinstance(template, dict) else {"default": template} if template else {}
    if not all(isinstance(text, str) for text in found.values()):
        raise ValueError("chat_template is neither a text nor a list of named texts")
    return found


def _text(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        content = json.loads(files.get(name, b"{}"))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name} is no JSON object")
    return content


def is_tokenizer_folder(folder) -> bool:
    """Whether a folder has the files of a Hugging Face tokenizer."""
    has = {name for name in FILES if (folder / name).exists()}
    return bool(has - {*JSON, TEMPLATE})


def load(folder) -> HuggingFaceTokenizer:
    """Reads a Hugging Face folder, or one written by `save`.

    Raises:
      UserError: its files are no tokenizer.
    """
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
    try:
        return HuggingFaceTokenizer(files)
    except KeyboardInterrupt:
        raise
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    except BaseException as error:  # the libraries raise plain Exception, and panics from Rust
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder} cannot be read as a Hugging Face tokenizer ({', '.join(files)}): "
            f"{type(error).__name__}: {reason}. Copy its files again."
        ) from error
