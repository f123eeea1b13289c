"""Installed distributions made of files, for tests of discovery."""

from __future__ import annotations

import itertools
import pathlib

_COUNTER = itertools.count()

HEADER = """\
from pktkit.components import Component
from pktkit.hookspecs import hookimpl
"""

GOOD = (
    HEADER
    + """
@hookimpl
def pktkit_layer_matchers():
    yield Component("{name}", "{module}:Matcher", "a matcher")
"""
)

BROKEN_BODIES = {
    "no-import": "import a_module_that_does_not_exist",
    "exits": "raise SystemExit(3)",
    "syntax": "def (",
    "misspelt": HEADER + "@hookimpl\ndef pktkit_layer_matcher():\n    return []\n",
    "signature": HEADER + "@hookimpl\ndef pktkit_tasks(everything):\n    return []\n",
    "unmarked": "def pktkit_tasks():\n    return []\n",
    "api": "PKTKIT_API = 99\n",
    "raises": HEADER + "@hookimpl\ndef pktkit_tasks():\n    raise RuntimeError('two\\nlines')\n",
    "no-components": HEADER + "@hookimpl\ndef pktkit_tasks():\n    return ['text']\n",
}


def install(
    directory: pathlib.Path,
    distribution: str,
    entry_points: str,
    modules: dict[str, str] | None = None,
    version: str = "1.2",
) -> None:
    """Write a `.dist-info` folder and modules into a directory on `sys.path`."""
    info = directory / f"{distribution}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    )
    (info / "entry_points.txt").write_text(entry_points)
    for name, body in (modules or {}).items():
        (directory / f"{name}.py").write_text(body)


def install_plugin(
    directory: pathlib.Path, entry_point: str, body: str, distribution: str | None = None
) -> str:
    """Install a distribution with one plugin module; return the module's name."""
    module = f"fake_plugin_{next(_COUNTER)}"
    text = body.replace("{name}", entry_point).replace("{module}", module)
    install(
        directory,
        distribution or f"acme-{entry_point}",
        f"[pktkit]\n{entry_point} = {module}\n",
        {module: text},
    )
    return module
