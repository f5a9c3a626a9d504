"""The formats of input files: a file of this package with ENDINGS each, found by its name.

A format's file has
  ENDINGS   the endings of its files' names, before that of a packing such as .gz
  OPTIONS   the fields of `input` that mean nothing to files of other formats
  read(file, config, part) -> Iterator[Document | Rejected]
and may have
  PREFIX, expand(entry, config) -> list[InputFile]
            entries of `input.paths` that begin with PREFIX and name no file
  folder_files(folder, field) -> list[Path] | None
            the files of a folder that is one data set of this format
  read_rows(file, config) -> Iterator[tuple[str, Mapping | Rejected]]
            what rows for fine-tuning are made of: all fields of each row, and its place in the
            file, such as "line 7"; without it a document is a row of one field, `text`
  ROW_ENDINGS
            further endings of files of rows, which `prepare` does not read
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from types import ModuleType

from jaxllm.core.errors import unknown
from jaxllm.data.prepare.readers import streams

SHARD = re.compile(r"-\d{5}-of-\d{5}$")  # as of c4-train.array_record-00000-of-01024


@functools.cache
def formats() -> dict[str, ModuleType]:
    """The formats by name; files beside them that have no ENDINGS are no formats."""
    package = importlib.import_module(__package__)
    found = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        module = importlib.import_module(f"{__package__}.{name}")
        if hasattr(module, "ENDINGS") and hasattr(module, "read"):
            found[name] = module
    return found


@functools.cache
def row_formats() -> dict[str, ModuleType]:
    """The formats of files of rows by name."""
    package = importlib.import_module(__package__)
    modules = {
        module.name: importlib.import_module(f"{__package__}.{module.name}")
        for module in pkgutil.iter_modules(package.__path__)
    }
    found = {name: module for name, module in modules.items() if hasattr(module, "read_rows")}
    return {**formats(), **found}


def row_format_of(name: str) -> str | None:
    """The format of a file of rows by the ending of its name."""
    known = {
        kind: (*getattr(module, "ENDINGS", ()), *getattr(module, "ROW_ENDINGS", ()))
        for kind, module in row_formats().items()
    }
    return _by_ending(name, known)


def format_module(name: str) -> ModuleType:
    """The file of a format.

    Raises:
      UserError: there is none.
    """
    if name not in formats():
        raise unknown("input.format", name, ["auto", *formats()])
    return formats()[name]


def format_of(name: str) -> str | None:
    """The format of a file by the ending of its name."""
    return _by_ending(name, {kind: module.ENDINGS for kind, module in formats().items()})


def _by_ending(name: str, known: Mapping[str, Sequence[str]]) -> str | None:
    stem = SHARD.sub("", name.lower())
    for kind, endings in known.items():
        if stem.endswith(tuple(end + packed for end in endings for packed in streams.ENDINGS)):
            return kind
    return None


def known_endings() -> tuple[str, ...]:
    """The endings that tell a format."""
    return tuple(ending for module in formats().values() for ending in module.ENDINGS)
