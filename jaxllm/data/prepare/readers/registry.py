"""The formats of input files: a file of this package with ENDINGS each, found by its name.

A format's file has
  ENDINGS   the endings of its files' names, before that of a packing such as .gz
  OPTIONS   the fields of `input` that mean nothing to files of other formats
  read(file, config, part) -> Iterator[Document | Rejected]
and may have
  PREFIX, expand(entry, config) -> list[InputFile]
            entries of `input.paths` that begin with PREFIX and name no file
  folder_files(folder) -> list[Path] | None
            the files of a folder that is one data set of this format
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
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
    stem = SHARD.sub("", name.lower())
    for kind, module in formats().items():
        endings = (end + packed for end in module.ENDINGS for packed in streams.ENDINGS)
        if stem.endswith(tuple(endings)):
            return kind
    return None


def known_endings() -> tuple[str, ...]:
    """The endings that tell a format."""
    return tuple(ending for module in formats().values() for ending in module.ENDINGS)
