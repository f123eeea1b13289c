"""Virtual environments of their own beside the installed pktkit, without a download.

A fresh environment sees what the running interpreter sees (torch and pktkit among it), but what
is installed into it stays there.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import attrs

PATIENCE = 800
"""Seconds for one command, on a machine that is busy with other things."""

REPLACED = ("pktkit", "pytest", "pip")
"""Commands that are run as modules of the environment's interpreter."""


@attrs.frozen
class Environment:
    """A virtual environment, and the folder its commands run in."""

    path: Path
    folder: Path

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.path / ("Scripts" if os.name == "nt" else "bin") / "python"

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the interpreter with arguments; failing is an answer."""
        return subprocess.run(
            [str(self.python), *arguments],
            cwd=self.folder,
            env={**os.environ, **_QUIET, **variables},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def succeed(self, *arguments: str, **variables: str) -> str:
        """Run the interpreter and return what it wrote to stdout; it must end with 0."""
        done = self.run(*arguments, **variables)
        assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout


_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "NO_COLOR": "1",
    "OMP_NUM_THREADS": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    # Whatever is needed is here already: nothing may be fetched.
    "PIP_NO_INDEX": "1",
    "PIP_NO_DEPS": "1",
    # Yes, this switches isolation of builds off.
    "PIP_NO_BUILD_ISOLATION": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTEST_ADDOPTS": "-p no:cacheprovider",
}


def fresh_environment(folder: Path) -> Environment:
    """Make an empty environment in `folder` from which everything installed can be imported."""
    path = folder / "environment"
    venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(path)
    environment = Environment(path, folder)
    site = environment.succeed("-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    (Path(site.strip()) / "beside.pth").write_text("".join(f"{each}\n" for each in _visible()))
    return environment


def _visible() -> list[str]:
    """Return where this process imports installed packages from, editable ones included."""
    tests = str(Path(__file__).parent)
    standard = (sys.base_prefix, sys.base_exec_prefix)
    return [
        each
        for each in sys.path
        if each
        and Path(each).is_dir()
        and each != tests
        and ("site-packages" in each or not each.startswith(standard))
    ]


def build_wheel(project: Path, folder: Path) -> Path:
    """Build the wheel of a distribution with the backend that is installed."""
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, project],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\nIs hatchling installed?"
    [wheel] = folder.glob("*.whl")
    return wheel
