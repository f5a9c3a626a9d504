"""The files with which transformers' AutoTokenizer reads a tokenizer, giving the same ids.

The kinds that are trained here become a tokenizer.json of the library `tokenizers`. It reads no
special token out of a text (`split_special_tokens`), as the kinds here do not; whoever wants
`<mask>` in a text to be the mask token calls transformers' tokenizer with
`split_special_tokens=False`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from jaxllm.data.tokenizers.base import FIRST, SECOND, SPACE, Tokenizer
from jaxllm.data.tokenizers.byte import BYTES, ByteTokenizer
from jaxllm.data.tokenizers.char import CharTokenizer
from jaxllm.data.tokenizers.huggingface import TEMPLATE
from jaxllm.data.tokenizers.sentencepiece import NORMAL, USER_DEFINED, SentencePieceTokenizer

BPE = 2  # sentencepiece's number for it
UNLIKELY = 1000  # times the lowest score: such a piece is in no best segmentation


def export_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files of a Hugging Face folder, by name, that make up its tokenizer.

    A Hugging Face tokenizer keeps its own, byte for byte. Of the others, `char` differs for text
    that it refuses: transformers drops characters that are not in the vocabulary. And a unigram
    model may cut a run of one character otherwise, with equal probability ("aaa" into a, aa or
    aa, a): sentencepiece adds in float32, tokenizers in float64.
    """
    if tokenizer.kind not in BUILDERS:
        own = tokenizer.own_template
        return {**tokenizer.files, **({} if own is None else {TEMPLATE: own.encode()})}
    made = BUILDERS[tokenizer.kind](tokenizer)
    special = [tokenizer.token_text(token) for token in sorted(tokenizer.special_ids)]
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    made.post_processor = _post_processor(tokenizer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
        "split_special_tokens": True, **tokenizer.special_names(),
        "additional_special_tokens": [tokenizer.token_text(i) for i in tokenizer.sentinel_ids],
    }
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template
    return {
        "tokenizer.json": made.to_str().encode(),
        "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False).encode(),
    }


def _post_processor(tokenizer: Tokenizer) -> processors.PostProcessor:
    """What `with_special_tokens` adds."""
    single, pair = tokenizer.wrapping
    names = {FIRST: "$A", SECOND: "$B"}
    used = {part for part, _ in pair if part not in names}
    names.update((token, tokenizer.token_text(token)) for token in used)
    return processors.TemplateProcessing(
        single=" ".join(f"{names[part]}:{kind}" for part, kind in single),
        pair=" ".join(f"{names[part]}:{kind}" for part, kind in pair),
        special_tokens=[(names[token], token) for token in used],
    )


def _byte(tokenizer: ByteTokenizer) -> tokenizers.Tokenizer:
    """Byte-level BPE without merges."""
    made = tokenizers.Tokenizer(models.BPE(_byte_letters(), []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return made


def _byte_letters() -> dict[str, int]:
    """GPT-2's letter for each byte: itself where it can be printed, else the next from U+0100."""
    letters: dict[str, int] = {}
    for byte in range(BYTES):
        printable = 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174
        moved = sum(1 for letter in letters if ord(letter) >= BYTES)
        letters[chr(byte if printable else BYTES + moved)] = byte
    return letters


def _char(tokenizer: CharTokenizer) -> tokenizers.Tokenizer:
    """BPE without merges: a character each."""
    made = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(tokenizer.characters)}, []))
    made.decoder = decoders.Fuse()
    return made


def _sentencepiece(tokenizer: SentencePieceTokenizer) -> tokenizers.Tokenizer:
    proto = tokenizer.proto()
    if proto.trainer_spec.model_type == BPE:
        made = tokenizers.Tokenizer(_bpe(proto))
    else:
        made = tokenizers.Tokenizer(_unigram(proto))
    made.normalizer = normalizers.Replace(" ", SPACE)
    known = {piece.piece for piece in proto.pieces if piece.type == NORMAL}
    reserved = {piece.piece for piece in proto.pieces if piece.type not in (NORMAL, USER_DEFINED)}
    foreign = sorted(set("".join(reserved)) - known)
    if foreign:  # such a character is in no piece of text: alone, it makes no special one either
        letters = "".join(re.escape(letter) for letter in foreign)
        made.pre_tokenizer = pre_tokenizers.Split(Regex(f"[{letters}]"), "isolated")
    made.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    made.add_tokens([
        AddedToken(_name(piece), normalized=False, special=False)
        for piece in proto.pieces if piece.type == USER_DEFINED
    ])
    return made


def _name(piece) -> str:
    """The vocabulary's name of a piece: a user symbol is found in the text as it is written."""
    return piece.piece.replace(SPACE, " ") if piece.type == USER_DEFINED else piece.piece


def _bpe(proto) -> models.BPE:
    """Merges in the order of the scores of what they make: sentencepiece's own order."""
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    merges = []
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        for cut in range(1, len(piece)):
            if piece[:cut] in scores and piece[cut:] in scores:
                merges.append((piece[:cut], piece[cut:]))
    return models.BPE(
        {_name(piece): i for i, piece in enumerate(proto.pieces)}, merges, byte_fallback=True,
        fuse_unk=True, unk_token=proto.pieces[proto.trainer_spec.unk_id].piece,
    )


def _unigram(proto) -> models.Unigram:
    """The pieces with their scores; those that stand for no text must win nowhere."""
    lowest = min(piece.score for piece in proto.pieces if piece.type == NORMAL)
    vocabulary = [
        (_name(piece), piece.score if piece.type == NORMAL else UNLIKELY * lowest)
        for piece in proto.pieces
    ]
    return models.Unigram(vocabulary, unk_id=proto.trainer_spec.unk_id, byte_fallback=True)


BUILDERS: dict[str, Callable] = {"byte": _byte, "char": _char, "sentencepiece": _sentencepiece}
