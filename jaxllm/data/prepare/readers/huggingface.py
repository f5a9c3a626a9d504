"""Folders that `datasets` wrote with `save_to_disk`, and single Arrow files, as those of its cache.

A data set is a folder with state.json, which lists its Arrow files; a folder with dataset_dict.json
holds such a folder for each split.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from etils import epath

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Document, Part, Rejected
from jaxllm.data.prepare.readers.base import BrokenFile, InputFile
from jaxllm.data.prepare.readers.columnar import check_columns, read_batches
from jaxllm.data.prepare.readers.streams import open_file

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
    import pyarrow as pa

    with open_file(file) as stream:
        try:
            if stream.peek(len(MAGIC)).startswith(MAGIC):
                table = pa.ipc.open_file(stream)
                batches = (table.get_batch(index) for index in range(table.num_record_batches))
            else:
                table = batches = pa.ipc.open_stream(stream)
        except pa.ArrowException as error:
            raise BrokenFile("broken_file", str(error)) from error
        check_columns(file, config, table.schema)
        yield from read_batches(file, config, batches)


def folder_files(folder: epath.Path) -> list[epath.Path] | None:
    """The Arrow files of a data set in their order; None if the folder is no data set.

    Raises:
      UserError: several splits, or a state.json that cannot be followed.
    """
    if (splits := folder / "dataset_dict.json").exists():
        names = _load(splits).get("splits", [])
        if len(names) != 1:
            raise UserError(
                f"input.paths: {folder} is a Hugging Face DatasetDict with the splits "
                f"{', '.join(map(str, names)) or '(none)'}. Name those to read, such as "
                f"{folder / str(next(iter(names), 'train'))}: training on a test split spoils it."
            )
        return folder_files(folder / names[0]) or []
    if not (state := folder / "state.json").exists():
        return None
    content = _load(state)
    if "_data_files" not in content:
        return None  # another program's state
    if content.get("_indices_data_files"):
        raise UserError(
            f"input.paths: {folder} holds a selection of rows (indices) that an old version of "
            "`datasets` saved. Save it again: load_from_disk(…).flatten_indices().save_to_disk(…)."
        )
    files = [folder / entry["filename"] for entry in content["_data_files"]]
    for file in files:
        if not file.exists():
            raise UserError(f"input.paths: {file} is missing: state.json beside it lists it.")
    return files


def _load(file: epath.Path) -> dict:
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"input.paths: {file} is no JSON: {error}. Save the data again.") from error
    return content if isinstance(content, dict) else {}
