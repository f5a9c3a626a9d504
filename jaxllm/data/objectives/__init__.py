"""Objectives: what a model learns from a window of text. One file each, found by its name.

A file has `raw_length(sequence_length)`, the tokens of the stream that an example is made from;
`OVERLAP`, how many of them the next window has too; and
`example(window, sequence_length, rng)`, a Batch of [sequence_length] arrays. A window shorter than
the raw length is padded with segment 0 and weight 0.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from jaxllm.core.errors import unknown


def find_objective(name: str) -> ModuleType:
    """The file of an objective.

    Raises:
      UserError: there is no such objective.
    """
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in names:
        raise unknown("data.objective", name, names)
    return importlib.import_module(f"{__name__}.{name}")
