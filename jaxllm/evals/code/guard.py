"""Locks its own process in, then runs a Python program: `python -I guard.py PROGRAM SECONDS BYTES`.

A script of the standard library alone, started by `sandbox.run`. The program gets namespaces of its
own for the network (it has none), processes (it sees and ends only its own) and IPC; it may write
and delete nothing outside its working folder (Landlock); time, memory, file size and files are
limited. Exit code 97: this machine cannot do that, and nothing was run.
"""

import ctypes
import os
import resource
import signal
import sys

REFUSED = 97
NAMESPACES = 0x10000000 | 0x40000000 | 0x20000000 | 0x08000000  # user, network, processes, IPC
NO_NEW_PRIVILEGES, PARENT_DEATH_SIGNAL = 38, 1
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # of every architecture
# Landlock's rights that change files: write, cut short; remove, make, link or rename anything
WRITE_FILE = (1 << 1) | (1 << 14)
WRITES = WRITE_FILE | sum(1 << bit for bit in range(4, 14))
VERSION = 3  # of Landlock: the first that knows them all (Linux 6.2)
FILE_BYTES, FILES = 16 << 20, 64


def main() -> None:
    """Locks the process in and runs the program in a child, whose exit code it gives."""
    program, seconds, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NAMESPACES):
        refuse("namespaces")
    child = os.fork()  # the first process of the new namespace: with it all others end
    if child:
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)
    libc.prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    only_write_here(libc)
    for kind, most in (
        (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, size),
        (resource.RLIMIT_FSIZE, FILE_BYTES), (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    os.execve(sys.executable, [sys.executable, "-I", program], {"OMP_NUM_THREADS": "1"})


def only_write_here(libc: ctypes.CDLL) -> None:
    """Forbids changes outside the working folder, for this process and all that it starts."""
    class Ruleset(ctypes.Structure):
        _fields_ = (("files", ctypes.c_uint64),)

    class Beneath(ctypes.Structure):
        _pack_ = 1
        _layout_ = "ms"
        _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))

    if libc.syscall(CREATE_RULESET, None, 0, 1) < VERSION:  # flag 1 asks for the version
        refuse("Landlock")
    rules = Ruleset(WRITES)
    ruleset = libc.syscall(CREATE_RULESET, ctypes.byref(rules), ctypes.sizeof(rules), 0)
    if ruleset < 0:
        refuse("Landlock")
    for place in (".", os.devnull):
        folder = os.open(place, os.O_PATH | os.O_CLOEXEC)
        allowed = WRITES if place == "." else WRITE_FILE
        beneath = Beneath(allowed, folder)
        if libc.syscall(ADD_RULE, ruleset, 1, ctypes.byref(beneath), 0):
            refuse("Landlock")
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(RESTRICT_SELF, ruleset, 0):
        refuse("Landlock")


def refuse(what: str) -> None:
    """Ends: the machine lacks what a sandbox is made of."""
    print(what, file=sys.stderr, flush=True)
    os._exit(REFUSED)


if __name__ == "__main__":
    main()
