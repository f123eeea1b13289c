"""Giving up, for good, what code that a model wrote must not have.

Walls stand one behind the other; each that the system has is put up:

- `limits`: memory, processor time, size and number of open files, no core dumps;
- `user`: root becomes nobody, or gives up its capabilities where nobody could not read Python;
- `landlock`: one directory can be written to, a few can be read;
- `seccomp`: no process, thread, socket or signal to others, and no unusual system call;
- `guard`, only in place of `seccomp`: the interpreter itself refuses these. A determined program
  finds ways around an interpreter.

Imports the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import stat
import struct
import sys
import sysconfig
from collections.abc import Sequence
from typing import Any

from . import file_rules, syscall_filter

NOBODY = 65534
SYSTEM_FILES = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/localtime"),
    *("/dev/urandom", "/dev/zero"),
)
"""What the interpreter's own modules may want to read, beside the standard library."""

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _CAPABILITY_VERSION = 1, 24, 0x20080522
_GUARDED = (
    *("ctypes.", "socket.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system"),
    *("os.kill", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename"),
    *("os.rmdir", "os.symlink", "os.truncate", "os.utime", "os.setxattr", "pty.", "shutil."),
    *("subprocess.", "tempfile.", "_thread.start_new_thread", "signal.pthread_kill"),
)


def confine(
    *,
    memory: int,
    folder: str | None = None,
    seconds: int | None = None,
    file_bytes: int = 0,
    files: int = 0,
    without: Sequence[str] = (),
) -> list[str]:
    """Give up, for good, what model-written code never needs.

    Arguments:
        memory: most bytes of address space.
        folder: the directory that can be written to, owned by `owner`; None for none.
        seconds: processor time after which the process is killed; None leaves it open.
        file_bytes: largest file.
        files: how many more files may be open at a time.
        without: walls that are left out, to test the others.

    Returns:
        The walls that stand.
    """
    walls = []
    if "landlock" not in without and _stands(
        lambda: file_rules.restrict(
            readable=() if folder is None else readable_places(),
            writable=["/dev/null", *([] if folder is None else [folder])],
        )
    ):
        walls.append("landlock")
    if "user" not in without and os.geteuid() == 0:
        become_nobody() if folder is None or nobody_can_read() else give_up_capabilities()
        walls.append("user")
    die_with_parent()
    limits = {
        "RLIMIT_AS": (memory, memory),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_FSIZE": (file_bytes, file_bytes),
        "RLIMIT_NOFILE": (3 + files, 3 + files),
        "RLIMIT_NPROC": (0, 0),
        "RLIMIT_MSGQUEUE": (0, 0),
        "RLIMIT_MEMLOCK": (0, 0),
    }
    if seconds is not None:
        limits["RLIMIT_CPU"] = (seconds, seconds)  # a lower soft one could be caught
    for name, value in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), value)
    walls.append("limits")
    writing = folder is not None and "landlock" in walls
    if "seccomp" not in without and _stands(lambda: syscall_filter.install(writing=writing)):
        walls.append("seccomp")
    elif "guard" not in without:
        guard()
        walls.append("guard")
    return walls


def nobody_can_read() -> bool:
    """Whether a user without any rights can read the standard library."""
    path = sysconfig.get_path("stdlib")
    while path != os.path.dirname(path):
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
        path = os.path.dirname(path)
    return True


def owner() -> int:
    """Return the user that confined code runs as."""
    return NOBODY if os.geteuid() == 0 and nobody_can_read() else os.geteuid()


def readable_places() -> list[str]:
    """Return where the interpreter and its libraries lie."""
    paths = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    return [*paths, os.path.join(sys.base_prefix, "lib"), *SYSTEM_FILES]


def become_nobody() -> None:
    """Drop root where the system lets us: the process limit does not bind root."""
    with contextlib.suppress(OSError):
        os.setgroups([])
    with contextlib.suppress(OSError):
        os.setresgid(NOBODY, NOBODY, NOBODY)
    with contextlib.suppress(OSError, AttributeError):
        os.setresuid(NOBODY, NOBODY, NOBODY)


def give_up_capabilities() -> None:
    """Stay root by name, without the rights that make root more than a user."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        for number in range(64):
            libc.prctl(_PR_CAPBSET_DROP, *(ctypes.c_ulong(n) for n in (number, 0, 0, 0)))
        libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), struct.pack("=6I", *[0] * 6))


def die_with_parent() -> None:
    """Be killed when the parent ends, where the system can do that."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, *(ctypes.c_ulong(n) for n in (9, 0, 0, 0)))


def guard() -> None:
    """Let the interpreter refuse what the kernel does not, for good."""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            flags = arguments[2]
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                raise PermissionError(1, "writing is not permitted here")
        elif event.startswith(_GUARDED):
            raise PermissionError(1, f"{event} is not permitted here")

    sys.addaudithook(audit)


def _stands(put_up: Any) -> bool:
    try:
        put_up()
    except (OSError, AttributeError):
        return False
    return True
