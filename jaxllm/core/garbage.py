"""Python's garbage collection while a run steps."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """What is there on entry is not looked through inside: no host does so while others wait.

    Where the caller has frozen objects already, they stay so.
    """
    frozen = gc.get_freeze_count()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()
