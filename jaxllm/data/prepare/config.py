"""The configuration of `jaxllm prepare`: a section for each stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from ml_collections import ConfigDict

from jaxllm.core.config import reject_unread, resolve, to_config_dict
from jaxllm.core.errors import UserError, unknown

FORMATS = ("auto", "text", "jsonl")
DOCUMENTS = ("file", "paragraph", "line")
MODEL_TYPES = ("bpe", "unigram")  # of SentencePiece


@dataclass(frozen=True)
class InputConfig:
    """What to read."""

    paths: tuple[str, ...] = ()  # files, folders, globs, gs://…, or sample:NAME
    format: str = "auto"  # auto (by the file's ending) | text | jsonl
    document: str = "file"  # of a text file: file | paragraph (between blank lines) | line
    text_field: str = "text"  # of a JSONL row


@dataclass(frozen=True)
class SplitConfig:
    """Which text is kept out of training."""

    by: str = "document"  # document (chosen by a hash of its text) | position (the corpus' end)
    validation_share: float = 0.05


@dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer: an existing one, or one trained on the training split."""

    path: str = ""  # a tokenizer folder or Hugging Face folder to use; the rest is then not read
    kind: str = "sentencepiece"  # sentencepiece | char | byte
    vocab_size: int = 32000
    model_type: str = "bpe"  # bpe | unigram
    character_coverage: float = 0.9995  # share of characters with a piece; the others are bytes
    user_symbols: tuple[str, ...] = ()  # always one token, such as <|user|>
    train_characters: int = 100_000_000  # at most; documents are chosen by a hash
    mask: bool = False  # a <mask> token, for masked and denoising objectives
    sentinels: int = 0  # T5's <extra_id_0> …, for span corruption (T5 has 100)


@dataclass(frozen=True)
class OutputConfig:
    """How tokens are stored."""

    append_eos: bool = True  # an end-of-text token after every document
    block_tokens: int = 8192  # per record: what one random read fetches
    tokens_per_shard: int = 2**28


@dataclass(frozen=True)
class PrepareConfig:
    """A preparation."""

    input: InputConfig = field(default_factory=InputConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    output: OutputConfig = field(default_factory=OutputConfig)


READ = {  # fields of `tokenizer` that matter for a kind
    "sentencepiece": {
        "kind", "vocab_size", "model_type", "character_coverage", "user_symbols",
        "train_characters", "mask", "sentinels",
    },
    "char": {"kind", "mask", "sentinels"},
    "byte": {"kind", "mask", "sentinels"},
}


def default_config() -> ConfigDict:
    """Every field of a preparation with its default; what recipes start from."""
    return to_config_dict(PrepareConfig())


def resolve_config(values: ConfigDict) -> PrepareConfig:
    """The frozen configuration of a recipe's ConfigDict.

    Raises:
      UserError: an unknown field, a wrong type, or values that cannot work.
    """
    config = resolve(PrepareConfig, values)
    _check(config)
    return config


def _check(config: PrepareConfig) -> None:
    if not config.input.paths:
        raise UserError(
            "input.paths is empty: name the corpus, such as "
            "--config.input.paths=\"('texts/*.txt',)\" or ('sample:tinyshakespeare',)."
        )
    choices = {
        "input.format": (config.input.format, FORMATS),
        "input.document": (config.input.document, DOCUMENTS),
        "split.by": (config.split.by, ("document", "position")),
        "tokenizer.model_type": (config.tokenizer.model_type, MODEL_TYPES),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise unknown(name, value, allowed)
    if not 0 < config.split.validation_share < 1:
        raise UserError(
            f"split.validation_share={config.split.validation_share} must lie between 0 and 1, "
            "such as 0.05: the validation split is what shows whether the model learns."
        )
    sizes = {
        "tokenizer.vocab_size": config.tokenizer.vocab_size,
        "tokenizer.train_characters": config.tokenizer.train_characters,
        "output.block_tokens": config.output.block_tokens,
        "output.tokens_per_shard": config.output.tokens_per_shard,
    }
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"{name}={value} must be at least 1.")
    _check_tokenizer(config.tokenizer)


def _check_tokenizer(config: TokenizerConfig) -> None:
    if config.path:
        owner = f"tokenizer.path={config.path!r}, a finished tokenizer,"
        fix = "leave tokenizer.path out to train one"
        reject_unread(config, {"path"}, owner, "tokenizer", fix)
        return
    if config.kind == "huggingface":
        raise UserError(
            "tokenizer.kind='huggingface' cannot be trained here: set tokenizer.path to the folder "
            "with its tokenizer.json instead, and leave tokenizer.kind alone."
        )
    if config.kind in MODEL_TYPES:
        raise UserError(
            f"tokenizer.kind={config.kind!r} is none of {', '.join(sorted(READ))}: set "
            f"tokenizer.kind='sentencepiece' with tokenizer.model_type={config.kind!r}."
        )
    if config.kind not in READ:
        raise UserError(
            f"{unknown('tokenizer.kind', config.kind, READ)} The kinds are "
            f"{', '.join(sorted(READ))}."
        )
    owner = f"tokenizer.kind={config.kind!r}"
    reject_unread(config, READ[config.kind], owner, "tokenizer")
    if config.sentinels < 0:
        raise UserError(f"tokenizer.sentinels={config.sentinels} must not be negative.")
    if config.kind == "sentencepiece" and config.sentinels >= config.vocab_size:
        raise UserError(
            f"tokenizer.vocab_size={config.vocab_size} counts the tokenizer.sentinels="
            f"{config.sentinels} too and leaves nothing for text: make it larger."
        )
    if not 0 < config.character_coverage <= 1:
        raise UserError(
            f"tokenizer.character_coverage={config.character_coverage} must lie in (0, 1]."
        )
