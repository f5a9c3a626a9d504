"""Locks its own process in, then runs a Python program: `python -I guard.py PROGRAM SECONDS BYTES`.

A script of the standard library alone, started by `sandbox.run`. The program gets namespaces of its
own for the network (it has none), processes (it sees and ends only its own) and IPC, and no sockets
of the file system (seccomp); it may write and delete nothing outside its working folder (Landlock);
time, memory, processes, file size and files are limited. Exit code 97: this machine cannot do that,
and nothing was run.
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
FILE_BYTES, FILES, PROCESSES = 16 << 20, 64, 64
SECCOMP, FILTER = 22, 2
# Of a machine: its name to the kernel's audit, its calls socket and socketpair
CALLS = {"x86_64": (0xC000003E, 41, 53), "aarch64": (0xC00000B7, 198, 199)}
IO_URING, OTHER_CALLS = 425, 0x40000000
UNIX, STREAM = 1, 1
ALLOW, DENY, KILL = 0x7FFF0000, 0x00050001, 0x80000000  # DENY: "operation not permitted"


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
    no_local_sockets(libc)
    for kind, most in (
        (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, size),
        (resource.RLIMIT_FSIZE, FILE_BYTES), (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NPROC, PROCESSES),
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


def no_local_sockets(libc: ctypes.CDLL) -> None:
    """Forbids sockets of the file system, by which other programs of the machine could be asked to
    do what this one may not: neither namespaces nor Landlock keep them apart."""
    class Step(ctypes.Structure):
        _fields_ = (("code", ctypes.c_uint16), ("if_so", ctypes.c_uint8),
                    ("if_not", ctypes.c_uint8), ("value", ctypes.c_uint32))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_uint16), ("steps", ctypes.POINTER(Step)))

    if os.uname().machine not in CALLS:
        refuse("known system calls")
    audit, socket, pair = CALLS[os.uname().machine]
    load, low_bits, equal, at_least, end = 0x20, 0x54, 0x15, 0x35, 0x06
    steps = (Step * 15)(
        Step(load, 0, 0, 4), Step(equal, 1, 0, audit), Step(end, 0, 0, KILL),  # another machine's
        Step(load, 0, 0, 0), Step(at_least, 8, 0, OTHER_CALLS), Step(equal, 7, 0, IO_URING),
        Step(equal, 1, 0, socket), Step(equal, 2, 6, pair),
        Step(load, 0, 0, 16), Step(equal, 3, 4, UNIX),  # the family
        # the kind, without its flags: the ends of a stream reach each other only (asyncio has one)
        Step(load, 0, 0, 24), Step(low_bits, 0, 0, 15), Step(equal, 1, 0, STREAM),
        Step(end, 0, 0, DENY), Step(end, 0, 0, ALLOW),
    )
    if libc.prctl(SECCOMP, FILTER, ctypes.byref(Program(len(steps), steps)), 0, 0):
        refuse("seccomp")


def refuse(what: str) -> None:
    """Ends: the machine lacks what a sandbox is made of."""
    print(what, file=sys.stderr, flush=True)
    os._exit(REFUSED)


if __name__ == "__main__":
    main()
