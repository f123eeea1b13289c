"""A seccomp filter: the system calls that a calculating Python program needs, and no others.

No process or thread can be started and no socket opened, no other process be signalled, traced or
read, no mode, owner or time of a file be changed, and nothing that is not listed here, however new
the kernel. What is refused fails with EPERM. Imports the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable, Mapping

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""`AUDIT_ARCH` of a machine, and its column in the tables below."""

X32 = 0x40000000
"""Numbers from here on are a second set of system calls on x86_64."""

READING: Mapping[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "mremap": (25, 216), "madvise": (28, 233), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65),
    "writev": (20, 66), "pipe": (22, None), "pipe2": (293, 59), "dup": (32, 23),
    "dup2": (33, None), "dup3": (292, 24), "select": (23, None), "pselect6": (270, 72),
    "poll": (7, None), "ppoll": (271, 73), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None), "epoll_pwait": (281, 22), "access": (21, None),
    "faccessat": (269, 48), "faccessat2": (439, 439), "stat": (4, None), "lstat": (6, None),
    "newfstatat": (262, 79), "statx": (332, 291), "fstatfs": (138, 44), "statfs": (137, 43),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "umask": (95, 166), "fsync": (74, 82),
    "fdatasync": (75, 83), "ftruncate": (77, 46), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "pause": (34, None), "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getitimer": (36, 102),
    "setitimer": (38, 103), "alarm": (37, None), "getpid": (39, 172), "getppid": (110, 173),
    "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "getpgid": (121, 155), "getpgrp": (111, None), "getsid": (124, 156),
    "uname": (63, 160), "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179),
    "getrandom": (318, 278), "futex": (202, 98), "set_robust_list": (273, 99),
    "set_tid_address": (218, 96), "rseq": (334, 293), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
"""Harmless for whoever may only open what Landlock allows; numbers on x86_64 and aarch64."""

CHANGING: Mapping[str, tuple[int | None, int | None]] = {
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35),
    "symlink": (88, None), "symlinkat": (266, 36), "link": (86, None), "linkat": (265, 37),
}  # fmt: skip
"""Allowed where Landlock says in which directory."""

OPENING = {"open": (2, None, 1), "openat": (257, 56, 2)}
"""Numbers, and which argument holds the flags."""

_LIMITED: Mapping[str, tuple[int, int]] = {
    "fcntl": (72, 25), "ioctl": (16, 29), "kill": (62, 129), "tkill": (200, 130),
    "tgkill": (234, 131), "prlimit64": (302, 261),
}  # fmt: skip

_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030)  # duplicates, flags and locks; not F_SETOWN, which signals
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # asking a terminal; blocking; on exec
_CREATING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000  # write, read and write, create, cut, unnamed

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050001  # the last one: EPERM
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2

Instruction = tuple[int, int, int, int]
"""Code, instructions skipped if true and if false, operand."""


def install(*, writing: bool) -> None:
    """Install the filter on this process, for good.

    Arguments:
        writing: whether files may be written, created and removed, because something else says
            where. Without that, only descriptors that are open already can be written to.

    Raises:
        OSError: the kernel or the machine has no such filter.
    """
    program = assemble(platform.machine(), os.getpid(), writing=writing)
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(packed)
    header = struct.pack("@HxxxxxxP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    zeros = (ctypes.c_ulong(0),) * 2
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), ctypes.c_ulong(0), *zeros),
        (_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.c_char_p(header), *zeros),
    ):
        if libc.prctl(*arguments) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"seccomp: {os.strerror(code)}")


def assemble(machine: str, pid: int, *, writing: bool) -> list[Instruction]:
    """Return the filter's program.

    Arguments:
        machine: as `platform.machine` says.
        pid: the one process that may be signalled.
        writing: see `install`.

    Raises:
        OSError: unknown machine.
    """
    if machine not in ARCHITECTURES:
        raise OSError(f"seccomp: no filter for machine '{machine}'")
    architecture, column = ARCHITECTURES[machine]
    program: list[Instruction] = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, 0, 1, X32),
        (_RETURN, 0, 0, _REFUSE),
    ]
    tables = (READING, CHANGING) if writing else (READING,)
    numbers = [entry[column] for table in tables for entry in table.values()]
    openings = [(entry[column], entry[2]) for entry in OPENING.values()]
    if writing:
        numbers += [number for number, _ in openings]
    for number in numbers:
        if number is not None:
            program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    if not writing:
        for number, place in openings:
            if number is not None:
                program += _without_bits(number, place, _CREATING)
    for name, place, allowed in (
        ("fcntl", 1, _FCNTL),
        ("ioctl", 1, _IOCTL),
        ("kill", 0, (pid,)),
        ("tkill", 0, (pid,)),
        ("tgkill", 0, (pid,)),
        ("prlimit64", 2, (0,)),  # asking for limits, not setting them
    ):
        program += _with_value(_LIMITED[name][column], place, allowed)
    return [*program, (_RETURN, 0, 0, _REFUSE)]


def _with_value(number: int, place: int, allowed: Iterable[int]) -> list[Instruction]:
    """Allow a call when an argument has one of the values, all 64 bits of it."""
    tests: list[Instruction] = []
    for value in allowed:
        tests += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    body: list[Instruction] = [
        (_LOAD, 0, 0, 16 + 8 * place),
        *tests,
        (_RETURN, 0, 0, _REFUSE),
    ]
    if number == _LIMITED["prlimit64"][0] or number == _LIMITED["prlimit64"][1]:
        body = [(_LOAD, 0, 0, 20 + 8 * place), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _REFUSE), *body]
    return [(_EQUAL, 0, len(body), number), *body]


def _without_bits(number: int, place: int, bits: int) -> list[Instruction]:
    """Allow a call when an argument has none of the bits."""
    body: list[Instruction] = [
        (_LOAD, 0, 0, 16 + 8 * place),
        (_ANY_BIT, 0, 1, bits),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return [(_EQUAL, 0, len(body), number), *body]
