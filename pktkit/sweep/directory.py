"""The folder of a sweep: its terms before the first trial, then every cell and trial as it ends.

`sweep.lock` holds what is searched and, as `run` of a comparison does, everything that repeats it;
`cells.jsonl` the scores, `trials.jsonl` one line per configuration. Lines are only ever added, so
that a sweep that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import yaml

from pktkit.compare.lock import Lock, parse_lock
from pktkit.converters import as_tuple
from pktkit.errors import UsageError
from pktkit.recipe import load_document
from pktkit.report.jsonfile import plain
from pktkit.report.rundir import CELLS, RunDirectory
from pktkit.structure import from_plain, to_plain
from pktkit.sweep.space import Dimension

SCHEMA = 1
LOCK = "sweep.lock"
TRIALS = "trials.jsonl"
RESULT = "sweep.json"
RECIPE = "recipe.yaml"
REPORT = "report.md"

_HEADING = "# What this sweep is made of. To go on with it:  pktkit sweep --resume DIRECTORY\n"


@attrs.frozen
class Search:
    """How configurations are chosen and judged.

    Arguments:
        strategy: name of the strategy that is varied.
        space: what is varied.
        sampler: see `pktkit.sweep.sampling.SAMPLERS`.
        seed: of the sampler.
        trials: how many configurations are asked for, besides the one registered.
        alpha: error rate of the claim about the winner.
        optuna: its version; empty where it is not needed.
        command: as typed.
        confirm: what to type to see the winner on test, with `RECIPE` for its file.
    """

    strategy: str
    space: tuple[Dimension, ...] = attrs.field(converter=as_tuple)
    sampler: str
    seed: int
    trials: int
    alpha: float
    optuna: str = ""
    command: str = ""
    confirm: str = ""


@attrs.frozen
class SweepLock:
    """Everything that repeats a sweep.

    Arguments:
        search: how configurations are chosen.
        run: the comparison that trials are cells of: untouched target, `sft`, the strategy as
            registered; on dev.
    """

    search: Search
    run: Lock

    def text(self) -> str:
        """Return the content of `sweep.lock`."""
        content = {"schema": SCHEMA, "search": to_plain(self.search), "run": self.run.document()}
        return _HEADING + yaml.safe_dump(content, sort_keys=False, allow_unicode=False, width=100)


@attrs.frozen
class Trial:
    """One configuration that was asked for.

    Arguments:
        number: 0 is the strategy as registered.
        strategy: name of its cells.
        values: by `stage.option`, as in a recipe.
        sampled: what the sampler gave; empty for trial 0.
        score: mean over items and seeds, percent; None if it failed.
        error: why.
        same_as: number of the trial that had these values before; None for a new configuration.
    """

    number: int
    strategy: str
    values: Mapping[str, Any]
    sampled: Mapping[str, float] = attrs.field(factory=dict)
    score: float | None = None
    error: str = ""
    same_as: int | None = None


@attrs.frozen
class SweepDirectory:
    """A folder that belongs to one sweep. Make it with `create` or `existing`."""

    run: RunDirectory

    @classmethod
    def create(cls, path: Path) -> SweepDirectory:
        """Make a new folder.

        Raises:
            UsageError: there is something in it already, or it cannot be written.
        """
        if (path / LOCK).exists():
            raise UsageError(
                f"{path} holds a sweep already. Give another folder, or go on with it: "
                f"`{resume_command(path)}`."
            )
        return cls(RunDirectory.create(path))

    @classmethod
    def existing(cls, path: Path) -> SweepDirectory:
        """Open the folder of a sweep.

        Raises:
            UsageError: there is none in it.
        """
        if not (path / LOCK).is_file():
            raise UsageError(
                f"{path} holds no sweep: {LOCK} is missing."
                + (
                    " It is a comparison: pktkit compare --resume."
                    if (path / "run.lock").exists()
                    else ""
                )
            )
        return cls(RunDirectory.existing(path))

    @property
    def path(self) -> Path:
        """Return the folder."""
        return self.run.path

    def lock(self) -> SweepLock:
        """Read `sweep.lock`.

        Raises:
            UsageError: it is not YAML, no lock of a sweep, or of another schema.
        """
        file = self.path / LOCK
        content = load_document(file.read_text(encoding="utf-8"), str(file))
        if not isinstance(content, dict) or not {"schema", "search", "run"} <= set(content):
            raise UsageError(f"{file} is no lock of a sweep: it needs schema, search and run.")
        if content["schema"] != SCHEMA:
            raise UsageError(
                f"{file} has schema {content['schema']}, this pktkit reads schema {SCHEMA}."
            )
        search = from_plain(Search, content["search"], f"{file}: search")
        run = parse_lock(yaml.safe_dump(content["run"]), f"{file}: run")
        if run.plan.split != "dev":
            raise UsageError(f"{file}: a sweep looks at dev only, got split '{run.plan.split}'.")
        return SweepLock(search, run)

    def trials(self) -> list[Trial]:
        """Return the trials on disk; a line that was half written is none.

        Raises:
            UsageError: a line cannot be read, or trials are not numbered from 0.
        """
        file = self.path / TRIALS
        lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
        trials = []
        for number, line in enumerate(lines):
            try:
                trials.append(Trial(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise UsageError(f"{file}, line {number + 1}: no trial ({error}).") from error
            if trials[-1].number != number:
                raise UsageError(
                    f"{file}, line {number + 1}: trial {trials[-1].number} where {number} belongs."
                )
        return trials

    def drop_half_lines(self) -> None:
        """Remove last lines that were half written when the sweep stopped."""
        self.run.drop_half_line()
        file = self.path / TRIALS
        if file.exists():
            os.truncate(file, file.read_bytes().rfind(b"\n") + 1)

    def append(self, trial: Trial) -> None:
        """Add a trial that has ended; when this returns, it is on the disk.

        Raises:
            UsageError: the file cannot be written.
        """
        line = json.dumps(plain(attrs.asdict(trial)), ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with (self.path / TRIALS).open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(
                f"{self.path / TRIALS} cannot be written: {error.strerror or error}. What ran is "
                f"in {CELLS}; go on with `{resume_command(self.path)}`."
            ) from error


def resume_command(folder: Path) -> str:
    """Return what to type to go on with a sweep."""
    return f"pktkit sweep --resume {shlex.quote(str(folder))}"
