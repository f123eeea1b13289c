"""The tutorial works as written: every block of it is executed, in order.

A block's first word says what it is. `sh`: commands, run one by one. `python`: run; with a path
behind it, written to that file instead. `text`: what the command before it shows; its words must
be in what it really shows, figures may differ.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import attrs
import pytest
from fresh_environments import REPLACED, Environment, fresh_environment

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorial-aligner.md"
_BLOCK = re.compile(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_WORD = re.compile(r"[A-Za-z][A-Za-z_-]{2,}")
KINDS = ("sh", "python", "toml", "yaml", "text")


@attrs.frozen
class Block:
    """One code block: its kind, the file it is written to (or none), and its text."""

    kind: str
    path: str
    text: str

    def commands(self) -> list[list[str]]:
        """Return the commands of a shell block, lines that end in a backslash joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [shlex.split(line, comments=True) for line in lines if line.strip()]


def blocks() -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))]


@attrs.define
class Reader:
    """Somebody who follows the tutorial to the letter."""

    environment: Environment
    shown: str = ""

    def follow(self, block: Block) -> None:
        if block.kind == "sh":
            self.shown = "".join(self.run(command) for command in block.commands())
        elif block.path:
            path = self.environment.folder / block.path
            assert path.parent.is_dir(), f"{block.path}: nothing has made its folder"
            path.write_text(block.text, encoding="utf-8")
        elif block.kind == "python":
            self.shown = self.environment.succeed("-c", block.text)
        else:
            missing = set(_WORD.findall(block.text)) - set(_WORD.findall(self.shown))
            assert not missing, f"shown, but not said: {sorted(missing)}\n{self.shown}"

    def run(self, command: list[str]) -> str:
        done = self.environment.run("-m", *command)
        text = done.stdout + done.stderr
        assert done.returncode == 0, f"{shlex.join(command)}\n{text}"
        return text


def test_every_block_is_one_that_can_be_executed():
    found = blocks()
    assert found
    fences = re.findall(r"^```", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(found)
    for block in found:
        assert block.kind in KINDS, f"a block of kind '{block.kind}' would not be executed"
        assert block.path or block.kind in ("sh", "python", "text")
        for command in block.commands() if block.kind == "sh" else ():
            assert command[0] in REPLACED, shlex.join(command)


@pytest.mark.timeout(900)
def test_the_tutorial_works_to_the_letter(tmp_path):
    reader = Reader(fresh_environment(tmp_path))
    for block in blocks():
        reader.follow(block)
