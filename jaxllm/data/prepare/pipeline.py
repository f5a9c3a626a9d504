"""`prepare`: the corpus is read once to count, once to train the tokenizer, once to write tokens.

Reading more than once keeps memory at one document, however large the corpus is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import jaxllm
from jaxllm.core.config import to_dict
from jaxllm.core.display import Display
from jaxllm.core.errors import UserError
from jaxllm.core.paths import make_directory, path
from jaxllm.core.rundir import RunDirectory
from jaxllm.data import tokenizers
from jaxllm.data.blocks import token_dtype
from jaxllm.data.manifest import (
    FILE,
    VERSION,
    Dropped,
    Inputs,
    Manifest,
    TokenizerEntry,
    read_manifest,
)
from jaxllm.data.prepare import split
from jaxllm.data.prepare.config import PrepareConfig
from jaxllm.data.prepare.readers import (
    Digest,
    InputFile,
    content_digest,
    find_files,
    read_documents,
)
from jaxllm.data.prepare.writer import Scratch, SplitWriter
from jaxllm.data.tokenizers import Tokenizer

TOKENIZER = "tokenizer"  # the folder of the prepared data that holds its tokenizer
ENCODE_CHARACTERS = 2**20  # texts handed to the tokenizer at a time
Item = TypeVar("Item")


def prepare(
    config: PrepareConfig, output_dir: str | os.PathLike, display: Display,
    overwrite: bool = False,
) -> Manifest:
    """Reads, splits, tokenises and writes the corpus; gives what manifest.json says.

    A folder that was prepared with these settings before is left as it is.

    Raises:
      UserError: bad input, a corpus too small, a folder that cannot be written, that holds a run,
        or that holds data prepared otherwise (unless `overwrite`).
    """
    folder = path(output_dir)
    if RunDirectory(folder).exists():
        raise UserError(
            f"--workdir={folder} holds a run or a model (config.json or checkpoints): prepared "
            "data there would replace its tokenizer. Name another folder for the data, such as "
            f"--workdir=data/{folder.name}."
        )
    corpus = Corpus(config, find_files(config.input), display)
    tokenizer = tokenizers.load(config.tokenizer.path) if config.tokenizer.path else None
    if (folder / FILE).exists() and not overwrite:
        manifest = read_manifest(folder)
        _check_same(manifest, corpus, tokenizer, folder)
        display.message(f"{folder} is prepared with these settings already: nothing to do.")
        return manifest
    make_directory(folder)
    _remove_old(folder)
    counts = corpus.count()
    _check_splits(config, counts)
    tokenizer = tokenizer or _train_tokenizer(corpus, counts)
    if config.output.append_eos and tokenizer.eos_id is None:
        raise UserError(
            f"output.append_eos=True, but the tokenizer ({tokenizer.kind}) has no end-of-text "
            "token. Set --config.output.append_eos=False."
        )
    with Scratch(folder) as scratch:
        writers = {
            name: SplitWriter(
                scratch, name, token_dtype(tokenizer.vocab_size), config.output.block_tokens,
                config.output.tokens_per_shard,
            )
            for name in (split.TRAIN, split.VALIDATION)
        }
        end = [tokenizer.eos_id] if config.output.append_eos else []
        for name, text, ids in _encoded(corpus, counts, tokenizer):
            writers[name].add(text, ids + end)
        splits = {name: writer.finish(folder) for name, writer in writers.items()}
    tokenizer.save(folder / TOKENIZER)
    manifest = Manifest(
        VERSION, jaxllm.__version__, corpus.settings, corpus.inputs, counts.dropped,
        TokenizerEntry(tokenizer.kind, tokenizer.hash, tokenizer.vocab_size),
        config.output.block_tokens, splits,
    )
    manifest.write(folder)
    return manifest


@dataclass
class Counts:
    """What the first reading found."""

    documents: int = 0
    characters: int = 0
    chosen: int = 0  # documents that go to validation when split by document
    chosen_characters: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)


class Corpus:
    """The input, which can be read again and again."""

    def __init__(self, config: PrepareConfig, files: list[InputFile], display: Display):
        self.config, self.files, self.display = config, files, display
        self.settings = json.loads(json.dumps(to_dict(config)))  # as manifest.json gives it back
        listing = json.dumps([[file.name, file.bytes] for file in files])
        self.inputs = Inputs(
            len(files), sum(file.bytes for file in files),
            hashlib.sha256(listing.encode()).hexdigest(),
        )

    def documents(self) -> Iterator[str]:
        """Every document that is kept."""
        return (text for text in self._all() if not text.isspace() and text)

    def count(self) -> Counts:
        """Reads everything once; from then on `inputs` knows the content too."""
        counts, blank, share = Counts(), Dropped(0, 0), self.config.split.validation_share
        digest = hashlib.sha256()
        for text in counted(self._all(digest), self.display, "reading documents"):
            if text.isspace() or not text:
                blank = Dropped(blank.documents + 1, blank.characters + len(text))
                continue
            counts.documents += 1
            counts.characters += len(text)
            if split.hash_fraction(text, "split") < share:
                counts.chosen += 1
                counts.chosen_characters += len(text)
        self.inputs = dataclasses.replace(self.inputs, content=digest.hexdigest())
        counts.dropped = {"blank": blank} if blank.documents else {}
        return counts

    def split(self, documents: Iterable[str], counts: Counts) -> Iterator[tuple[str, str]]:
        """(split, text) of documents that are all those of this corpus."""
        config = self.config.split
        if config.by == "document":
            return split.by_document(documents, config.validation_share)
        return split.by_position(
            documents, split.cut_place(counts.characters, config.validation_share)
        )

    def _all(self, digest: Digest | None = None) -> Iterator[str]:
        return itertools.chain.from_iterable(
            read_documents(file, self.config.input, digest) for file in self.files
        )


def counted(
    items: Iterable[Item], display: Display, title: str, total: int | None = None
) -> Iterator[Item]:
    """The items, counted on the display: live while they go by, else one line at the end."""
    display.start(title, total)
    number = 0
    for number, item in enumerate(items, 1):
        if display.live and number % 64 == 0:
            display.update(number)
        yield item
    display.update(number)
    display.close()


def _check_splits(config: PrepareConfig, counts: Counts) -> None:
    share, documents = config.split.validation_share, counts.documents
    if documents == 0:
        raise UserError("input.paths: every document is blank, so there is nothing to prepare.")
    if config.split.by == "position":
        sizes = split.cut_place(counts.characters, share)
        empty = [n for n, size in (("training", sizes), ("validation", counts.characters - sizes))
                 if size == 0]
        unit, amount, fix = "characters", counts.characters, "add text"
    else:
        empty = [n for n, size in (("training", documents - counts.chosen),
                                   ("validation", counts.chosen)) if size == 0]
        unit, amount = "documents", documents
        fix = (
            "set --config.split.by=position, which cuts the corpus at a character, or make "
            "documents smaller (--config.input.document=paragraph or line)"
        )
    if empty:
        raise UserError(
            f"split.validation_share={share} of {amount:,} {unit} leaves the {empty[0]} split "
            f"empty. Choose another share, or {fix}."
        )


def _train_tokenizer(corpus: Corpus, counts: Counts) -> Tokenizer:
    config = corpus.config.tokenizer
    module = tokenizers.kind_module(config.kind)
    display, title = corpus.display, f"training the {config.kind} tokenizer"
    special = {"mask": config.mask, "sentinels": config.sentinels}
    if config.kind == "byte":
        return module.ByteTokenizer(**special)
    if config.kind == "char":
        texts = counted(corpus.documents(), display, title, counts.documents)
        return module.train(texts, end_of_text=corpus.config.output.append_eos, **special)
    training = counts.characters - counts.chosen_characters
    if corpus.config.split.by == "position":
        training = split.cut_place(counts.characters, corpus.config.split.validation_share)
    share = config.train_characters / training
    texts = (
        text for name, text in corpus.split(corpus.documents(), counts)
        if name == split.TRAIN and (share >= 1 or split.hash_fraction(text, "tokenizer") < share)
    )
    with display.phase(title):
        return module.train(
            texts, vocab_size=config.vocab_size, model_type=config.model_type,
            character_coverage=config.character_coverage, user_symbols=config.user_symbols,
            **special,
        )


def _encoded(
    corpus: Corpus, counts: Counts, tokenizer: Tokenizer
) -> Iterator[tuple[str, str, list[int]]]:
    """(split, text, ids) of every document, encoded in groups to use the tokenizer's threads."""
    documents = counted(
        corpus.documents(), corpus.display, "writing tokens", counts.documents
    )
    group: list[tuple[str, str]] = []
    size = 0
    for name, text in corpus.split(documents, counts):
        group.append((name, text))
        size += len(text)
        if size >= ENCODE_CHARACTERS:
            yield from _encode_group(group, tokenizer)
            group, size = [], 0
    yield from _encode_group(group, tokenizer)


def _encode_group(
    group: list[tuple[str, str]], tokenizer: Tokenizer
) -> Iterator[tuple[str, str, list[int]]]:
    ids = tokenizer.encode_batch([text for _, text in group])
    for (name, text), row in zip(group, ids, strict=True):
        yield name, text, row


def _check_same(
    manifest: Manifest, corpus: Corpus, tokenizer: Tokenizer | None, folder
) -> None:
    """Refuses to go on in a folder that was prepared from something else."""
    changed = []
    for section, defaults in to_dict(PrepareConfig()).items():
        # a manifest from before a field was added means its default
        were = {**json.loads(json.dumps(defaults)), **manifest.settings.get(section, {})}
        changed += [
            f"{section}.{name} was {old!r} and is {corpus.settings[section].get(name)!r}"
            for name, old in were.items() if corpus.settings[section].get(name) != old
        ]
    listed = dataclasses.replace(manifest.inputs, content="")
    if not changed and listed != corpus.inputs:
        changed = [
            f"the input was {manifest.inputs.files} files of {manifest.inputs.bytes:,} bytes and "
            f"is {corpus.inputs.files} of {corpus.inputs.bytes:,}, or files were renamed"
        ]
    if not changed and manifest.inputs.content:
        with corpus.display.phase("comparing the input"):
            if content_digest(corpus.files) != manifest.inputs.content:
                changed = ["the text of the input files was changed, at equal sizes"]
    if not changed and tokenizer and tokenizer.hash != manifest.tokenizer.hash:
        changed = [f"the tokenizer in {corpus.config.tokenizer.path} is another one now"]
    if changed:
        raise UserError(
            f"{folder} was prepared with other settings: {'; '.join(changed[:4])}. Choose another "
            "--workdir, or add --overwrite to replace the data (runs that trained on it can then "
            "not be resumed)."
        )


def _remove_old(folder) -> None:
    """Takes the manifest away first: from here on the folder counts as not prepared."""
    (folder / FILE).unlink(missing_ok=True)
    for name in (split.TRAIN, split.VALIDATION):
        for old in folder.glob(f"{name}-*-of-*.array_record"):
            old.unlink()
    for old in folder.glob(".partial-*"):
        old.rmtree()
