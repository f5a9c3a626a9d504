"""Data sets of TensorFlow Datasets that are prepared on disk as ArrayRecord, without TensorFlow.

An entry of `input.paths` is `tfds:NAME/SPLIT`, such as tfds:wiki40b/en:1.3.0/train[:10%]. Nothing
is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jaxllm.core.errors import UserError, nearest
from jaxllm.core.paths import path
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Document, Part, Rejected
from jaxllm.data.prepare.readers.base import BrokenFile, InputFile, Rows

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

PREFIX = "tfds:"
ENDINGS = ()
OPTIONS = ("id_field", "source_field", "tfds_dir")
SPLIT = re.compile(r"(?P<name>[^\[\]+]+)(?P<slice>\[.*\])?")
BATCH = 64  # examples fetched at a time
PREPARE = "Prepare it first, with: tfds build NAME --file_format=array_record."


def expand(entry: str, config: InputConfig) -> list[InputFile]:
    """A piece of the split for each of its files, named as the rows it holds: NAME/train[0:500].

    Raises:
      UserError: no such data set or split on disk, or one that is not stored as ArrayRecord.
    """
    name, slash, split = entry.removeprefix(PREFIX).rpartition("/")
    found = SPLIT.fullmatch(split)
    if not slash or not found:
        raise UserError(
            f"input.paths: {entry!r} names no data set with one split. Write tfds:NAME/SPLIT, such "
            "as tfds:wiki40b/en/train or tfds:wiki40b/en/train[:10%]; name every split by itself."
        )
    builder = _builder(entry, name, config)
    _check_fields(entry, builder, config)
    if found["name"] not in builder.info.splits:
        near = nearest(found["name"], builder.info.splits)
        raise UserError(f"input.paths: {entry!r}: there is no such split. {near}")
    whole = builder.info.splits[found["name"]]
    try:
        pieces = builder.info.splits[split].file_instructions
    except ValueError as error:
        raise UserError(f"input.paths: {entry!r}: {str(error).splitlines()[0]}") from error
    starts, begin = {}, 0
    for file, length in zip(whole.filepaths, whole.shard_lengths, strict=True):
        starts[str(file)] = begin
        begin += length
    files = []
    for piece in pieces:
        file = path(piece.filename)
        start = starts[str(file)] + piece.skip
        share = piece.take / max(piece.examples_in_shard, 1)
        shown = f"{PREFIX}{name}/{found['name']}[{start}:{start + piece.take}]"
        size = max(1, int(file.stat().length * share))
        files.append(InputFile(file, shown, "tfds", size, entry))
    return files


def read(
    file: InputFile, config: InputConfig, part: Part | None
) -> Iterator[Document | Rejected]:
    """A document for each example."""
    name, _, split = file.name.removeprefix(PREFIX).rpartition("/")
    rows, source = Rows(file, config), _builder(file.name, name, config).as_data_source(split=split)
    place = 0
    try:
        for start in range(0, len(source), BATCH):
            places = range(start, min(start + BATCH, len(source)))
            for place, example in zip(places, source.__getitems__(list(places)), strict=True):
                yield rows.take(place, example)
    except (RuntimeError, IndexError) as error:
        detail = f"in the {BATCH} examples from {place}: {error}"
        raise BrokenFile("broken_file", detail) from error


def _builder(entry: str, name: str, config: InputConfig) -> DatasetBuilder:
    import tensorflow_datasets as tfds

    where = config.tfds_dir or "the default folder of TFDS (set input.tfds_dir)"
    try:
        builder = tfds.builder(name, data_dir=config.tfds_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"input.paths: {entry!r}: there is no data set {name!r} in {where}. {PREPARE}"
        ) from error
    if not builder.info.splits:
        raise UserError(f"input.paths: {entry!r}: {name!r} is not in {where}. {PREPARE}")
    stored = builder.info.file_format.value
    if stored != "array_record":
        raise UserError(
            f"input.paths: {entry!r} is stored as {stored}, which needs TensorFlow to be read. "
            f"{PREPARE}"
        )
    return builder


def _check_fields(entry: str, builder: DatasetBuilder, config: InputConfig) -> None:
    """Refuses names of features that the data set has not, and a text that is none."""
    import numpy as np
    import tensorflow_datasets as tfds

    for field in ("text_field", "id_field", "source_field"):
        if not (wanted := getattr(config, field)):
            continue
        feature = builder.info.features
        for name in wanted.split("."):
            inner = isinstance(feature, tfds.features.FeaturesDict) and name in feature
            feature = feature[name] if inner else None
        # NumPy has no strings of any length: TFDS gives them the type object
        is_text = (isinstance(feature, tfds.features.Tensor) and feature.shape == ()
                   and np.dtype(feature.np_dtype).kind == "O")
        if feature is None or (field == "text_field" and not is_text):
            what = "no such feature" if feature is None else "no text by this name"
            raise UserError(
                f"input.{field}={wanted!r}: {entry} has {what}. Its features are "
                f"{', '.join(sorted(builder.info.features))}."
            )
