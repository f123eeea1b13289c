"""What a model might write that must not happen: each program passes if it does what it must not.

`{outside}`, `{home}`, `{ours}`, `{port}`, `{us}` and `{neighbour}` stand for what is aimed at.
"""

from __future__ import annotations

RAW = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
"""
HOSTILE = {
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "processes": "import subprocess\nsubprocess.run(['/bin/true'])",
    "shell": "import os\nassert os.system('true') == 0",
    "exec": "import os\nos.execv('/bin/true', ['true'])",
    "multiprocessing": "import multiprocessing as m\np = m.Process(target=print)\np.start()",
    "thread": "import threading\nthreading.Thread(target=print).start()",
    "daemon": "import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()",
    "raw fork": RAW + "assert libc.fork() >= 0",
    "raw clone": RAW + "assert libc.syscall(56, 17, 0, 0, 0, 0) >= 0",
    "endless": "while True:\n    pass",
    "asleep": "import time\ntime.sleep(100)",
    "deaf": """
import signal
for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
    signal.signal(number, signal.SIG_IGN)
while True:
    pass
""",
    "catching": """
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
""",
    "memory": "x = []\nwhile True:\n    x.append(bytearray(1 << 20))",
    "memory at once": "x = bytearray(1 << 34)",
    "memory of files": "import os\nos.memfd_create('x')",
    "shared memory": "import multiprocessing.shared_memory as s\ns.SharedMemory('x', True, 99)",
    "recursion": "def f():\n    f()\nf()",
    "deep recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x):\n    f([x])\nf(1)",
    "crash": RAW + "ctypes.string_at(0)",
    "neighbouring file": "open('{outside}/new', 'w')",
    "append": "open('{outside}/kept', 'a').write('x')",
    "cut": "import os\nos.truncate('{outside}/kept', 0)",
    "raw cut": "import os\nos.open('{outside}/kept', os.O_RDONLY | os.O_TRUNC)",
    "remove": "import os\nos.remove('{outside}/kept')",
    "rename": "import os\nos.rename('{outside}/kept', 'mine')",
    "hard link": "import os\nos.link('{outside}/kept', 'mine')",
    "through a link": "import os\nos.symlink('{outside}', 'l')\nopen('l/new', 'w')",
    "mode": "import os\nos.chmod('{outside}/kept', 0o777)",
    "times": "import os\nos.utime('{outside}/kept', (0, 0))",
    "attributes": "import os\nos.setxattr('{outside}/kept', 'user.x', b'x')",
    "home": "import pathlib\n(pathlib.Path('{home}') / 'pktkit-was-here').write_text('x')",
    "parent folder": "open('../new', 'w')",
    "temporary folder": "open('/tmp/pktkit-was-here', 'w')",
    "our files": "open('{ours}', 'a')",
    "reading outside": "open('{outside}/kept').read()",
    "reading ours": "open('{ours}').read()",
    "listing": "import os\nos.listdir('{outside}')",
    "passwords": "open('/etc/passwd').read()",
    "environment": "import os\nassert 'SECRET' in os.environ",
    "its first environment": "assert b'SECRET' in open('/proc/self/environ', 'rb').read()",
    "parent's environment": "import os\nopen(f'/proc/{{os.getppid()}}/environ', 'rb').read()",
    "our environment": "open('/proc/{us}/environ', 'rb').read()",
    "our memory": "open('/proc/{us}/mem', 'rb')",
    "standard input": "assert input()",
    "descriptors": """
import os
found = [n for n in range(4, 256) if os.path.exists(f'/dev/fd/{{n}}')]
for n in range(4, 256):
    try:
        os.fstat(n)
    except OSError:
        continue
    found.append(n)
assert found
""",
    "tcp": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
    "udp": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "unix": "import socket\nsocket.socket(socket.AF_UNIX)",
    "pair": "import socket\nsocket.socketpair()",
    "url": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/')",
    "raw socket": RAW + "assert libc.socket(2, 1, 0) >= 0",
    "output": "while True:\n    print('x' * 10000)",
    "errors": "import sys\nwhile True:\n    sys.stderr.write('x' * 10000)",
    "output on every descriptor": """
import os
while True:
    for n in range(1, 20):
        try:
            os.write(n, b'x' * 4096)
        except OSError:
            pass
""",
    "long line": "import os\nos.write(1, b'x' * (1 << 24))\nraise KeyError",
    "large file": """
with open('x', 'wb') as file:
    for _ in range(99):
        file.write(bytes(1 << 20))
""",
    "many files": "import os\nfor n in range(10 ** 7):\n    open(str(n), 'w').close()",
    "many full files": "for n in range(10 ** 7):\n    open(str(n), 'wb').write(bytes(1 << 20))",
    "deep folders": """
import os
place = os.open('.', os.O_RDONLY)
for _ in range(3000):
    os.mkdir('d', dir_fd=place)
    inner = os.open('d', os.O_RDONLY, dir_fd=place)
    os.close(place)
    place = inner
raise KeyError
""",
    "locked folder": """
import os
os.mkdir('d')
os.mkdir('d/e', 0)
os.umask(0o777)
os.mkdir('f')
raise KeyError
""",
    "killing a neighbour": "import os\nos.kill({neighbour}, 9)",
    "killing the parent": "import os\nos.kill(os.getppid(), 9)",
    "killing its group": "import os\nos.killpg(os.getpgid(os.getppid()), 9)",
    "killing itself": "import os\nos.kill(os.getpid(), 9)",
    "tracing": RAW + "assert libc.ptrace(16, {neighbour}, 0, 0) == 0",
    "writing memory": RAW + "assert libc.process_vm_writev({neighbour}, 0, 0, 0, 0, 0) == 0",
    "mount": RAW + "assert libc.mount(b'none', b'.', b'tmpfs', 0, 0) == 0",
    "namespaces": RAW + "assert libc.unshare(0x10000000) == 0",
    "root": "import os\nos.setuid(0)\nopen('{outside}/new', 'w')",
    "root folder": "import os\nos.chroot('.')",
    "limits": "import resource as r\nr.setrlimit(r.RLIMIT_AS, (1 << 40, 1 << 40))",
    "limits of others": "import resource as r\nr.prlimit({neighbour}, r.RLIMIT_CPU, (1, 1))",
    "priority": "import os\nos.nice(-5)",
    "clock": "import time\ntime.clock_settime(0, 0)",
    "our modules": "import pktkit",
    "installed modules": "import attrs",
    "quiet end": "import os\nos._exit(0)",
    "quiet exit": "import sys\nsys.exit(0)",
    "null byte": "x = 1\0",
    "surrogate": "x = '\ud800'\nopen(x)",
    "nested": "x = " + "(" * 5000 + ")" * 5000,
}  # fmt: skip

WITHOUT_SECCOMP = (
    *("fork bomb", "processes", "tcp", "neighbouring file", "reading outside"),
    *("environment", "root", "remove", "mode"),
)
"""Contained by the other walls too."""

WITHOUT_LANDLOCK = (
    *("fork bomb", "tcp", "neighbouring file", "append", "cut", "raw cut", "remove", "rename"),
    *("hard link", "through a link", "mode", "parent folder", "temporary folder"),
)
