"""Files that are written whole or not at all, on a local disk or in a bucket (`gs://`)."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence

from etils import epath

from jaxllm.core.errors import UserError


def path(name: str | os.PathLike) -> epath.Path:
    """The path of a local file or a bucket object, with `~` expanded."""
    return epath.Path(name).expanduser()


def in_bucket(target: str | os.PathLike) -> bool:
    """Whether it is an object of a store, such as gs://bucket/run, and no file of a disk."""
    return "://" in str(target)


def shortest_names(paths: Sequence[epath.Path]) -> list[str]:
    """The shortest tails of the paths, of one length, that tell them apart."""
    parts = [path.parts for path in paths]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(p) for p in parts]


def holds(folder: epath.Path) -> str:
    """A sentence on what a folder has, for who named something that it has not; "" if nothing."""
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    shown = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
    return f"In {folder} there are: {shown}." if names else ""


def atomic_write_bytes(target: str | os.PathLike, content: bytes) -> None:
    """Writes `content` to `target` through a temporary file beside it.

    Raises:
      UserError: the folder cannot be written, or the disk is full.
    """
    target = path(target)
    temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise unwritable(target, error) from error


def atomic_write_text(target: str | os.PathLike, content: str) -> None:
    """`atomic_write_bytes` of UTF-8 text."""
    atomic_write_bytes(target, content.encode())


def make_directory(target: str | os.PathLike) -> epath.Path:
    """The directory `target`, created with its parents when it does not exist.

    Raises:
      UserError: a file is in the way, or the parent cannot be written.
    """
    directory = path(target)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(directory, error) from error
    return directory


def unwritable(target: epath.Path, error: OSError) -> UserError:
    """The user's view of an OSError met while writing `target`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "The disk is full: free space or choose another folder, then repeat the command."
    elif error.errno in (errno.EEXIST, errno.ENOTDIR):
        fix = "A file is in the way: choose another folder or move the file."
    elif error.errno == errno.EFBIG:
        fix = "Files are limited in size: raise the limit (ulimit -f)."
    else:
        fix = "Choose a folder that you may write to."
    return UserError(f"Cannot write {target}: {error.strerror or error}. {fix}")
