"""Several hosts score together: process 0 drives, the others repeat its calls.

What goes through a model is decided on process 0 alone, where the questions are. A program over
the devices of all hosts runs only if every process dispatches it: before process 0 does, it tells
the others the call, and they make the same one. A call waits for its followers on the host and not
in a collective, because process 0 may be busy with its questions for long. An error ends all
processes (core/watch.py).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxllm.core import watch

Tell = Callable[..., None]  # the name of a call and its arguments: JSON values and arrays
PREFIX = "jaxllm/call/"
LEAST = 2**14  # words of a message; its size is a power of two, so that few are compiled
WAIT = 2**31 - 1  # milliseconds for the next call: weeks
END = ""  # the name of the last call


def nobody(name: str, *arguments: Any) -> None:
    """Tells no one: a process alone, or one that follows."""


@contextlib.contextmanager
def leading() -> Iterator[Tell]:
    """How process 0 tells the others its calls; they go on when the block ends.

    An exception that leaves the block ends them too.
    """
    if jax.process_count() == 1:
        yield nobody
        return
    client = _store()
    told = 0

    def tell(name: str, *arguments: Any) -> None:
        nonlocal told
        message, key = _packed(name, arguments), f"{PREFIX}{told}"
        told += 1
        client.key_value_set(key, str(len(message)))
        multihost_utils.broadcast_one_to_all(message)
        client.key_value_delete(key)  # all have read it, or the broadcast had not ended

    with watch.together():
        yield tell
        tell(END)


def following() -> Iterator[tuple[str, list[Any]]]:
    """The calls of process 0, a name and the arguments, until it has no more."""
    client, heard = _store(), 0
    while True:
        size = int(client.blocking_key_value_get(f"{PREFIX}{heard}", WAIT))
        heard += 1
        message = multihost_utils.broadcast_one_to_all(np.zeros(size, np.uint32))
        name, arguments = _unpacked(message)
        if name == END:
            return
        yield name, arguments


def _store() -> Any:
    from jax._src.distributed import global_state  # what Orbax uses too; there is no public way

    return global_state.client


def _packed(name: str, arguments: tuple[Any, ...]) -> np.ndarray:
    """A call as uint32 words: the bytes of a head, the head as JSON, the arrays' content."""
    arrays: list[np.ndarray] = []

    def described(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{name} is told a {type(value).__name__}: neither JSON nor an array.")
        arrays.append(np.ascontiguousarray(value))
        return {"array": [value.dtype.str, *value.shape]}

    head = json.dumps([name, arguments], default=described).encode()
    content = [len(head).to_bytes(8, "little"), head, *(array.tobytes() for array in arrays)]
    filled = b"".join(content)
    words = max(LEAST, 1 << (len(filled) // 4).bit_length())
    return np.frombuffer(filled.ljust(4 * words, b"\0"), np.uint32)


def _unpacked(message: np.ndarray) -> tuple[str, list[Any]]:
    """The name and the arguments of `_packed`."""
    content = message.tobytes()
    place = 8 + int.from_bytes(content[:8], "little")

    def array(found: dict[str, Any]) -> Any:
        nonlocal place
        if found.keys() != {"array"}:
            return found
        dtype, *shape = found["array"]
        count = int(np.prod(shape, dtype=np.int64))
        value = np.frombuffer(content, dtype, count, place).reshape(shape)
        place += value.nbytes
        return value

    name, arguments = json.loads(content[8:place], object_hook=array)
    return name, arguments
