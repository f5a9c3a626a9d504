"""Folders that `datasets` wrote with `save_to_disk`, and single Arrow files, as those of its cache.

A data set is a folder with state.json, which lists its Arrow files; a folder with dataset_dict.json
holds such a folder for each split.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from etils import epath

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Document, Part, Rejected
from jaxllm.data.prepare.readers.base import BrokenFile, InputFile
from jaxllm.data.prepare.readers.columnar import batch_rows, check_columns, read_batches
from jaxllm.data.prepare.readers.streams import open_file

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".arrow",)
OPTIONS = ("id_field", "source_field")
MAGIC = b"ARROW1"  # of the file format; `datasets` writes streams


def read(
    file: InputFile, config: InputConfig, part: Part | None
) -> Iterator[Document | Rejected]:
    """A document for each row of one Arrow file.

    Raises:
      UserError: a column that the configuration names is not there, or is no text.
    """
    with open_file(file) as stream:
        schema, batches = _open(stream)
        check_columns(file, config, schema)
        yield from read_batches(file, config, batches)


def read_rows(file: InputFile, config: InputConfig) -> Iterator[tuple[str, dict]]:
    """The columns of each row of one Arrow file, with its place in it."""
    with open_file(file) as stream:
        yield from batch_rows(_open(stream)[1])


def _open(stream: BinaryIO) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
    import pyarrow as pa

    try:
        if stream.peek(len(MAGIC)).startswith(MAGIC):
            table = pa.ipc.open_file(stream)
            return table.schema, map(table.get_batch, range(table.num_record_batches))
        table = pa.ipc.open_stream(stream)
        return table.schema, table
    except pa.ArrowException as error:
        raise BrokenFile("broken_file", str(error)) from error


def folder_files(folder: epath.Path, field: str = "input.paths") -> list[epath.Path] | None:
    """The Arrow files of a data set in their order; None if the folder is no data set.

    `field` is named in the errors.

    Raises:
      UserError: several splits, or a state.json that cannot be followed.
    """
    if (splits := folder / "dataset_dict.json").exists():
        names = _load(splits, field).get("splits", [])
        if len(names) != 1:
            raise UserError(
                f"{field}: {folder} is a Hugging Face DatasetDict with the splits "
                f"{', '.join(map(str, names)) or '(none)'}. Name those to read, such as "
                f"{folder / str(next(iter(names), 'train'))}: training on a test split spoils it."
            )
        return folder_files(folder / names[0], field) or []
    if not (state := folder / "state.json").exists():
        return None
    content = _load(state, field)
    if "_data_files" not in content:
        return None  # another program's state
    if content.get("_indices_data_files"):
        raise UserError(
            f"{field}: {folder} holds a selection of rows (indices) that an old version of "
            "`datasets` saved. Save it again: load_from_disk(…).flatten_indices().save_to_disk(…)."
        )
    files = [folder / entry["filename"] for entry in content["_data_files"]]
    for file in files:
        if not file.exists():
            raise UserError(f"{field}: {file} is missing: state.json beside it lists it.")
    return files


def _load(file: epath.Path, field: str) -> dict:
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{field}: {file} is no JSON: {error}. Save the data again.") from error
    return content if isinstance(content, dict) else {}
