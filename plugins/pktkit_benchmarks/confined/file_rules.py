"""Landlock: which directories a process can read, and the one that it can write to.

Imports the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable, Iterator

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every machine
_VERSION, _PATH_BENEATH, _PR_SET_NO_NEW_PRIVS = 1, 1, 38
_O_PATH = getattr(os, "O_PATH", 0)

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SYM = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12
_REFER, _TRUNCATE = 1 << 13, 1 << 14

READ = _READ_FILE | _READ_DIR
WRITE = (
    READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM
    | _REFER | _TRUNCATE
)  # fmt: skip
ONE_FILE = _READ_FILE | _WRITE_FILE | _TRUNCATE
"""The rights that a file, as opposed to a directory, can have."""


def abi() -> int:
    """Return the version of Landlock that the kernel has; 0 for none."""
    return max(0, _system_call(_CREATE_RULESET, None, 0, _VERSION, check=False))


def restrict(*, readable: Iterable[str], writable: Iterable[str]) -> None:
    """Restrict this process, for good, to some paths and what is beneath them.

    Contents alone are kept: names, sizes and times of files elsewhere can still be seen. Where the
    kernel knows how, no TCP port can be bound or connected to, no abstract socket reached and no
    process outside signalled.

    Arguments:
        readable: files and directories; what does not exist is passed over.
        writable: likewise.

    Raises:
        OSError: the kernel has no Landlock, or a restriction was refused.
    """
    version = abi()
    if version == 0:
        raise OSError("landlock: not in this kernel")
    handled = (1 << 13) - 1
    handled |= (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    if version >= 5:
        handled |= 1 << 15  # commands to devices
    fields = [handled, *([3] if version >= 4 else []), *([3] if version >= 6 else [])]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _system_call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in readable:
            _allow(ruleset, path, READ & handled)
        for path in writable:
            _allow(ruleset, path, WRITE & handled)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, *(ctypes.c_ulong(n) for n in (1, 0, 0, 0)))
        _system_call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    with _opened(path) as place:
        if place is None:
            return
        if not os.path.isdir(path):
            rights &= ONE_FILE
        rule = struct.pack("=Qi", rights, place)
        _system_call(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int | None]:
    try:
        place = os.open(path, _O_PATH | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield place
    finally:
        os.close(place)


def _system_call(number: int, *arguments: bytes | int | None, check: bool = True) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    values = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *values))
    if result < 0 and check:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result
