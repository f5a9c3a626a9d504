"""What Orbax leaves behind when a read or a write fails is not printed.

It raises the first failure. Of each of the others Python would print a page, at any time until the
process ends. Of others' messages only "Event loop is closed" is held back with them.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import orbax.checkpoint as ocp
import tensorstore

PACKAGES = tuple(f"{os.path.dirname(module.__file__)}{os.sep}" for module in (ocp, tensorstore))
STORES = ("TensorStore", "OCDBT", "tensorstore")  # in the texts of errors that have no traceback
CLOSED = "Event loop is closed"  # what a write says that ends after the first failed


def quiet_orbax() -> None:
    """Holds back Orbax's log, which repeats what it raises, and the failures that it gave up."""
    logging.getLogger("absl").addFilter(lambda record: not _inside(record.pathname))
    logging.getLogger("asyncio").addFilter(
        lambda record: not (record.exc_info and _is_left(record.exc_info[1]))
    )
    sys.unraisablehook = _hook(sys.unraisablehook)


def _hook(heard: Callable[[Any], None]) -> Callable[[Any], None]:
    def hook(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine that was given up
        if not (code and _inside(code.co_filename)) and not _is_left(unraisable.exc_value):
            heard(unraisable)

    return hook


def _is_left(error: BaseException | None) -> bool:
    if error is None:
        return False
    text = str(error)
    if text == CLOSED or any(name in text for name in STORES):
        return True
    return any(_inside(frame.filename) for frame in traceback.extract_tb(error.__traceback__))


def _inside(file: str) -> bool:
    return file.startswith(PACKAGES)
