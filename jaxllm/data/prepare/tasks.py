"""What a worker does in each phase: a function of one item, the same for every runner.

`documents` reads a unit into chunks of documents, `passed` applies a pass to a chunk, `training`
chooses what the tokenizer learns from, and `tokens` encodes a chunk.
"""

from __future__ import annotations

import collections
import functools
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from jaxllm.core.paths import atomic_write_text
from jaxllm.data import tokenizers
from jaxllm.data.blocks import token_dtype
from jaxllm.data.prepare import readers, split
from jaxllm.data.prepare.chunk_writer import ChunkWriter
from jaxllm.data.prepare.config import PrepareConfig
from jaxllm.data.prepare.documents import Document, Rejected
from jaxllm.data.prepare.encoder import Encoder
from jaxllm.data.prepare.flow import Row, Samples, size_of
from jaxllm.data.prepare.passes import passes
from jaxllm.data.prepare.store import DocumentWriter, read_documents, whole
from jaxllm.data.prepare.units import Unit, survey
from jaxllm.data.prepare.work import Result, Work
from jaxllm.data.tokenizers import Tokenizer

ENCODE_CHARACTERS = 2**20  # texts handed to the tokenizer at a time


def surveyed(work: Work, unit: Unit) -> Result:
    """What the input is: its hash, and the lines in a part."""
    digest, lines = survey(unit)
    return {"sha256": digest, "lines": lines}


def documents(work: Work, item: tuple[str, Unit]) -> Result:
    """Reads a unit into chunks of documents."""
    name, unit = item
    row, samples, rejected = Row("read"), Samples(), {}
    chunk = ChunkWriter(work, 0, name)
    found = itertools.chain.from_iterable(
        readers.read(file, work.config.input, unit.part) for file in unit.files
    )
    with whole(work.rejected(name)) as quarantine, chunk:
        for one in found:
            if isinstance(one, Rejected):
                rejected[one.reason] = rejected.get(one.reason, 0) + 1
                _quarantine(quarantine, one)
                continue
            size = size_of(one.text)
            row.before.add(size)
            if not one.text or one.text.isspace():
                row.drop("blank", size)
                continue
            row.after.add(size)
            chunk.add(one, samples)
    atomic_write_text(work.samples(name), json.dumps(samples.to_json()))
    return {"rows": [row.to_json()], "rejected": rejected, "chunks": chunk.chunks}


def passed(work: Work, item: tuple[int, int]) -> Result:
    """Applies pass `level` to a chunk of documents."""
    level, number = item
    name, samples = work.chunks()[number], Samples()
    applied = passes(work.config)[level].applied(work, level, number)
    chunk = ChunkWriter(work, level + 1, name, whole_unit=True)
    with chunk:
        for index, document in enumerate(read_documents(work.documents(level, name))):
            for one in applied(index, document, samples):
                chunk.add(one, samples)
    atomic_write_text(work.samples(f"{level}-{name}"), json.dumps(samples.to_json()))
    return {"rows": [row.to_json() for row in applied.rows], "chunks": chunk.chunks}


def training(work: Work, item: tuple[int, str, int, int, float]) -> Result:
    """Chooses the documents of a chunk that the tokenizer is trained on, or their characters."""
    level, name, place, cut, share = item
    found = read_documents(work.documents(level, name))
    if work.config.tokenizer.kind == "char":  # of the whole corpus, as the kind says
        characters: set[str] = set()
        for document in found:
            characters.update(document.text)
        return {"characters": "".join(sorted(characters))}
    with whole(work.training(name)) as stream:
        writer = DocumentWriter(stream)
        for split_name, text in _splits(work.config, found, place, cut):
            chosen = share >= 1 or split.hash_fraction(text, "tokenizer") < share
            if split_name == split.TRAIN and chosen:
                writer.add(Document("", text, ""))
        writer.finish()
    return {}


def tokens(work: Work, item: tuple[int, str, int, int, str]) -> Result:
    """Encodes a chunk into the token stream of each split."""
    level, name, place, cut, tokenizer_hash = item
    tokenizer, encoder = _tokenizer(str(work.tokenizer), tokenizer_hash)
    dtype = token_dtype(tokenizer.vocab_size)
    end = np.asarray([tokenizer.eos_id] if work.config.output.append_eos else [], dtype)
    found = read_documents(work.documents(level, name))
    texts = _splits(work.config, found, place, cut)
    names = (split.TRAIN, split.VALIDATION)
    with (
        whole(work.tokens(name, names[0])) as train,
        whole(work.tokens(name, names[1])) as validation,
    ):
        streams = {names[0]: train, names[1]: validation}
        lengths: dict[str, list[int]] = {one: [] for one in names}
        counts = {one: [0, 0, 0, 0] for one in names}
        for split_name, text, ids in _encoded(texts, encoder):
            streams[split_name].write(ids.tobytes() + end.tobytes())
            lengths[split_name].append(len(ids) + len(end))
            for index, number in enumerate((1, *size_of(text), lengths[split_name][-1])):
                counts[split_name][index] += number
    for split_name, values in lengths.items():
        with whole(work.lengths(name, split_name)) as stream:
            stream.write(np.asarray(values, "<u8").tobytes())
    both = collections.Counter(n.bit_length() for some in lengths.values() for n in some)
    return {**counts, "lengths": {str(bits): both[bits] for bits in sorted(both)}}


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: str, tokenizer_hash: str) -> tuple[Tokenizer, Encoder]:
    tokenizer = tokenizers.load(folder)
    return tokenizer, Encoder(tokenizer, token_dtype(tokenizer.vocab_size))


def _quarantine(stream: BinaryIO, rejected: Rejected) -> None:
    entry = {"id": rejected.id, "reason": rejected.reason, "excerpt": rejected.excerpt}
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    stream.write(line.encode(errors="backslashreplace"))


def _splits(
    config: PrepareConfig, found: Iterable[Document], place: int, cut: int
) -> Iterator[tuple[str, str]]:
    """(split, text) of a chunk's documents, the first of which begins at character `place`."""
    if config.split.by == "position":
        return split.by_position(found, cut, place)
    return split.by_document(found, config.split.validation_share)


def _encoded(
    texts: Iterable[tuple[str, str]], encoder: Encoder
) -> Iterator[tuple[str, str, np.ndarray]]:
    """(split, text, ids) of every text, encoded in groups."""
    group: list[tuple[str, str]] = []
    size = 0
    for name, text in texts:
        group.append((name, text))
        size += len(text)
        if size >= ENCODE_CHARACTERS:
            yield from _encode_group(group, encoder)
            group, size = [], 0
    yield from _encode_group(group, encoder)


def _encode_group(
    group: list[tuple[str, str]], encoder: Encoder
) -> Iterator[tuple[str, str, np.ndarray]]:
    ids = encoder.encode([text for _, text in group])
    for (name, text), row in zip(group, ids, strict=True):
        yield name, text, row
