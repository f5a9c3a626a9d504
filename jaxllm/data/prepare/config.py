"""The configuration of `jaxllm prepare`: a section for each stage, found by the stage's file.

`stages` names those that run. A document stage is a file of the package `stages`, which sees one
document at a time; the others compare documents with one another, or with evaluation sets, and
come after them.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from dataclasses import dataclass, field, fields, make_dataclass
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from jaxllm.core.config import Wide, reject_unread, resolve, to_config_dict, to_dict
from jaxllm.core.errors import UserError, nearest, unknown
from jaxllm.data.prepare import stages
from jaxllm.data.prepare.duplicates import exact, near
from jaxllm.data.prepare.evaluations import decontaminate

DOCUMENTS = ("file", "paragraph", "line")
MODEL_TYPES = ("bpe", "unigram")  # of SentencePiece
MOST = 10**15  # bytes, characters or tokens
SPLITS = ("document", "cluster", "position")
# In the only order that they can have.
CORPUS_STAGES = {"exact": exact, "near": near, "decontaminate": decontaminate}


@dataclass(frozen=True)
class InputConfig:
    """What to read."""

    paths: tuple[str, ...] = ()  # files, folders, globs, gs://…, sample:NAME, tfds:NAME/SPLIT
    format: str = "auto"  # auto (by the file's ending), or the name of a file in readers/
    document: str = "file"  # of a text file: file | paragraph (between blank lines) | line
    text_field: str = "text"  # of a row; `meta.body` is the field `body` of the field `meta`
    id_field: str = ""  # of a row: its id, which no other row of the file may have
    source_field: str = ""  # of a row: where it is from, for the shares; else its entry of paths
    max_document_bytes: Wide = 100_000_000  # of a record; a larger one is rejected
    csv_columns: tuple[str, ...] = ()  # names of the columns of files that have no header line
    csv_delimiter: str = ""  # between fields; "" is a tab in .tsv files, else a comma
    csv_quotes: bool = True  # whether fields that begin with " end with it; never in some TSV
    xml_element: str = ""  # a document for each element of this name; "": for each file
    record_format: str = "auto"  # of ArrayRecord: auto (by the first) | text | json | example
    tfds_dir: str = ""  # where tfds: data sets are; "" is the default folder of TFDS


@dataclass(frozen=True)
class SplitConfig:
    """Which text is kept out of training."""

    # document (chosen by a hash of its text) | cluster (of near-duplicates, by the hash of their
    # first) | position (the corpus' end)
    by: str = "document"
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
    train_characters: Wide = 100_000_000  # at most; documents are chosen by a hash
    mask: bool = False  # a <mask> token, for masked and denoising objectives
    sentinels: int = 0  # T5's <extra_id_0> …, for span corruption (T5 has 100)


@dataclass(frozen=True)
class OutputConfig:
    """How tokens are stored."""

    append_eos: bool = True  # an end-of-text token after every document
    block_tokens: int = 8192  # per record: what one random read fetches
    tokens_per_shard: Wide = 2**28


@dataclass(frozen=True)
class Always:
    """The sections of every preparation; those of the stages follow."""

    input: InputConfig = field(default_factory=InputConfig)
    stages: tuple[str, ...] = ()  # what runs, in order
    split: SplitConfig = field(default_factory=SplitConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    output: OutputConfig = field(default_factory=OutputConfig)


def _stage_modules() -> dict[str, ModuleType]:
    """The files of the stages by name; files beside them that have no Settings are no stages."""
    found = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(stages.__path__)):
        module = importlib.import_module(f"{stages.__name__}.{name}")
        if hasattr(module, "Settings"):
            found[name] = module
    return {**found, **CORPUS_STAGES}


MODULES = _stage_modules()
PrepareConfig = make_dataclass(
    "PrepareConfig",
    [(name, module.Settings, field(default_factory=module.Settings))
     for name, module in MODULES.items()],
    bases=(Always,), frozen=True,
    namespace={"__doc__": "A preparation.", "__module__": __name__},
)


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
        "input.document": (config.input.document, DOCUMENTS),
        "split.by": (config.split.by, SPLITS),
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
        "input.max_document_bytes": config.input.max_document_bytes,
        "tokenizer.vocab_size": config.tokenizer.vocab_size,
        "tokenizer.train_characters": config.tokenizer.train_characters,
        "output.block_tokens": config.output.block_tokens,
        "output.tokens_per_shard": config.output.tokens_per_shard,
    }
    for name, value in sizes.items():
        if not 1 <= value <= MOST:
            raise UserError(f"{name}={value} must be at least 1 and at most {MOST}.")
    _check_tokenizer(config.tokenizer)
    _check_stages(config)


def settings_of(config: PrepareConfig) -> dict[str, Any]:
    """What a preparation depends on, as JSON gives it back: stages that do not run are left out."""
    used = {one.name for one in fields(Always)} | _stages_used(config)
    found = {name: value for name, value in to_dict(config).items() if name in used}
    return json.loads(json.dumps(found))


def stage_settings(config: PrepareConfig, name: str) -> Any:
    """The section of a stage."""
    return getattr(config, name)


def _check_stages(config: PrepareConfig) -> None:
    for place, name in enumerate(config.stages):
        if name not in MODULES:
            raise UserError(f"stages: there is no stage {name!r}. {nearest(name, MODULES)}")
        if name in config.stages[:place]:
            raise UserError(f"stages={config.stages} names {name!r} twice. Remove one of them.")
    documents = [name for name in config.stages if name not in CORPUS_STAGES]
    order = (*documents, *(name for name in CORPUS_STAGES if name in config.stages))
    if config.stages != order:
        raise UserError(
            f"stages={config.stages} cannot run in this order: {', '.join(CORPUS_STAGES)} compare "
            f"documents as the other stages leave them, and in this order. Set stages={order}."
        )
    used = _stages_used(config)
    for name, module in MODULES.items():
        if name not in used:
            _check_unused(name, stage_settings(config, name))
        elif hasattr(module, "check"):
            module.check(stage_settings(config, name))


def _stages_used(config: PrepareConfig) -> set[str]:
    return {*config.stages, *(["near"] if config.split.by == "cluster" else [])}


def _check_unused(name: str, settings: Any) -> None:
    usual = type(settings)()
    for one in fields(settings):
        if getattr(settings, one.name) != getattr(usual, one.name):
            raise UserError(
                f"{name}.{one.name}={getattr(settings, one.name)!r} has no effect: the stage "
                f"{name!r} does not run. Remove it, or add {name!r} to stages."
            )


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
    for place, symbol in enumerate(config.user_symbols):
        if not symbol or symbol in config.user_symbols[:place]:
            why = "names it twice" if symbol else "has an empty entry, which is no token"
            raise UserError(
                f"tokenizer.user_symbols={config.user_symbols} {why}"
                f"{f' ({symbol!r})' if symbol else ''}. Remove it."
            )
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
