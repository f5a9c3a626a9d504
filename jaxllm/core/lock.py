"""One writer per folder: two trainers in a run directory would each undo what the other writes.

The lock is the operating system's (flock), so it ends with its process, however that ends. The
file only says who holds it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from typing import TextIO

from jaxllm.core.errors import UserError
from jaxllm.core.paths import in_bucket, path, unwritable

UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # some network disks


class Lock:
    """Holds FOLDER/.lock from its creation to `release`; in a bucket there is nothing to hold."""

    def __init__(self, folder: str | os.PathLike, doing: str = "training"):
        """Takes the lock at once; `doing` is what its holders do there, for the message.

        Raises:
          UserError: another process has it; its number and host are named.
        """
        self._file: TextIO | None = None
        if in_bucket(path(folder)):
            return
        self._place = os.path.join(os.fspath(path(folder)), ".lock")
        while self._file is None:
            file = self._open()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = file.read().strip()
                file.close()
                if error.errno in UNSUPPORTED:
                    return
                raise UserError(
                    f"Another process{f' ({holder})' if holder else ''} is {doing} in {folder}. "
                    "Wait for it or stop it, or choose another --workdir."
                ) from error
            if self._is_there(file):
                self._file = file
            else:  # its last holder took it away between the two calls
                file.close()
        self._file.truncate(0)
        self._file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        """Lets others in; a second time does nothing."""
        file, self._file = self._file, None
        if file:
            with contextlib.suppress(OSError):
                os.unlink(self._place)  # while it is still ours
            file.close()

    def _open(self) -> TextIO:
        try:
            return open(os.open(self._place, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        except OSError as error:
            raise unwritable(path(self._place), error) from error

    def _is_there(self, file: TextIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self._place))
        except FileNotFoundError:
            return False
