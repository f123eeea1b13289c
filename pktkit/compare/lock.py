"""`run.lock`: everything that repeats a run, written before its first cell.

A lock is YAML for people and data for `compare --resume` and `reproduce`. The plan in it has
every option of every component written out, so that a default that changes later changes nothing,
and it is the plan read back from the lock that is run, the first time as the second.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import yaml

from pktkit.compare.environment import Environment
from pktkit.compare.fingerprint import ModelPrint, TaskPrint
from pktkit.compare.parts import Part
from pktkit.compare.plan import PairSpec, Plan, choose_task
from pktkit.components import Choice, Kind, Strategy
from pktkit.errors import UsageError
from pktkit.options import build_options
from pktkit.recipe import STAGES, load_document
from pktkit.report.rundir import LOCK
from pktkit.structure import differences, from_plain, to_plain
from pktkit.zoo import pair_paths

if TYPE_CHECKING:
    from pktkit.outcomes import CellKey
    from pktkit.registry import Registry

SCHEMA = 1

_HEADING = """\
# What this run was made of. To repeat it:  pktkit reproduce run.lock
# To go on after it was stopped:  pktkit compare --resume DIRECTORY
"""

EMBEDDED = "embedded:"
"""Begins the place of an embedded model, which is inside the package wherever that is."""


@attrs.frozen
class Lock:
    """What a run was made of.

    Arguments:
        plan: what is run, every option written out.
        threads: of torch, in each worker; other numbers of threads sum in another order.
        models: `source` and `target`.
        tasks: by name as in the plan.
        environment: versions and hardware.
        part: `i/n` for one part of the cells, see `pktkit.compare.parts`; empty for all.
        analyses: that stand in the report.
        directory: where the command was started; relative paths start there.
        created: date and time, UTC.
    """

    plan: Plan
    threads: int
    models: Mapping[str, ModelPrint]
    tasks: Mapping[str, TaskPrint]
    environment: Environment
    part: str = ""
    analyses: tuple[Choice, ...] = ()
    directory: str = ""
    created: str = ""

    @classmethod
    def of(
        cls, plan: Plan, registry: Registry, *, threads: int, analyses: Sequence[Choice] = ()
    ) -> Lock:
        """Write down a plan that is about to run.

        Arguments:
            plan: what will run.
            registry: of the plugins that it uses.
            threads: of torch, in each worker.
            analyses: that will stand in the report.

        Raises:
            UsageError: a model, a task or a component is missing, or an option does not fit.
        """
        plan = attrs.evolve(plan, strategies=tuple(resolved(s, registry) for s in plan.strategies))
        lock = cls(
            plan=plan,
            threads=threads,
            models=model_prints(plan.pair),
            tasks=task_prints(plan, registry),
            environment=Environment.current(registry, plan.pair.devices),
            analyses=tuple(
                _resolved(choice, Kind.ANALYSIS, registry, "analysis") for choice in analyses
            ),
            directory=os.getcwd(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        return parse_lock(lock.text(), "the run's lock")

    @property
    def cells(self) -> list[CellKey]:
        """The cells of the run, in the order of its tables."""
        cells = self.plan.cells()
        return list(Part.parse(self.part, cells).cells) if self.part else cells

    @property
    def pinned(self) -> Lock:
        """The lock with the commits of hub models that were read, to read the same again."""
        names: dict[str, Any] = {
            side: pinned(getattr(self.plan.pair, side), model.revision)
            for side, model in self.models.items()
        }
        pair = attrs.evolve(self.plan.pair, **names)
        return attrs.evolve(self, plan=attrs.evolve(self.plan, pair=pair))

    def document(self) -> dict[str, Any]:
        """Return the lock as plain data, strategies as recipes."""
        content = to_plain(self)
        for side, path in zip(("source", "target"), pair_paths(), strict=True):
            if content["plan"]["pair"][side] == str(path):
                content["plan"]["pair"][side] = EMBEDDED + side
        return {"schema": SCHEMA, **content}

    def text(self) -> str:
        """Return the content of `run.lock`."""
        body = yaml.safe_dump(self.document(), sort_keys=False, allow_unicode=True, width=100)
        if not body.replace("\n", "").isprintable():
            # YAML reads some invisible characters, such as U+0085, as line breaks.
            body = yaml.safe_dump(self.document(), sort_keys=False, allow_unicode=False, width=100)
        return _HEADING + body

    def changes(self, registry: Registry) -> list[str]:
        """Return one sentence for every model file and task that is not as it was.

        Raises:
            UsageError: a model or a task is gone.
        """
        now = {
            "models": model_prints(self.plan.pair),
            "tasks": task_prints(self.plan, registry),
        }
        was = {"models": self.models, "tasks": self.tasks}
        found = differences(to_plain(was), to_plain(now))
        # What a score compares with says once more what the other fields say; a field that
        # budgets did not have when the run began is at its default.
        return described(
            [
                (path, old, new)
                for path, old, new in found
                if ".comparability." not in path and not (".budgets." in path and old is None)
            ]
        )

    def environment_changes(self, environment: Environment) -> list[str]:
        """Return one line for every version, code and part of the machine that differs."""
        return described(differences(to_plain(self.environment), to_plain(environment)))

    def environment_changes_now(self, registry: Registry) -> list[str]:
        """Return in what this process differs from that which began the run."""
        now = Environment.current(registry, self.plan.pair.devices)
        return self.environment_changes(now)


def parse_lock(text: str, where: str) -> Lock:
    """Read a lock from its text.

    Raises:
        UsageError: it is not YAML, no lock, or of another schema.
    """
    content = load_document(text, where)
    if not isinstance(content, dict) or "schema" not in content:
        raise UsageError(f"{where} is no lock of a run: the key 'schema' is missing.")
    if content["schema"] != SCHEMA:
        versions = content.get("environment", {})
        versions = versions.get("packages", {}) if isinstance(versions, dict) else {}
        written = versions.get("pktkit", "unknown") if isinstance(versions, dict) else "unknown"
        raise UsageError(
            f"{where} has schema {content['schema']}, this pktkit reads schema {SCHEMA}. "
            f"It was written by pktkit {written}; use that version."
        )
    fields = {key: value for key, value in content.items() if key != "schema"}
    lock: Lock = from_plain(Lock, _placed(fields), where)
    return lock


def read_lock(path: Path) -> Lock:
    """Read a lock file, or that of a run directory.

    Raises:
        UsageError: it is missing, cannot be read, or is no lock.
    """
    file = path / LOCK if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"{file} does not exist; give a run directory or its {LOCK}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}.") from error
    return parse_lock(text, str(file))


def resolved(strategy: Strategy, registry: Registry) -> Strategy:
    """Return a strategy with every option of its components written out.

    Raises:
        UsageError: a component is unknown, or an option does not fit.
    """
    stages: dict[str, Any] = {}
    for kind in STAGES:
        choice: Choice | None = getattr(strategy, kind.value)
        if choice is not None:
            stages[kind.value] = _resolved(choice, kind, registry, f"strategy '{strategy.name}'")
    return attrs.evolve(strategy, **stages) if stages else strategy


def _resolved(choice: Choice, kind: Kind, registry: Registry, owner: str) -> Choice:
    cls = registry.options_class(kind, choice.name)
    options = build_options(cls, choice.options, f"{owner}: {kind} '{choice.name}'")
    fields = [field for field in attrs.fields(cls) if field.init]
    return Choice(choice.name, {f.alias or f.name: getattr(options, f.name) for f in fields})


def pinned(reference: str, revision: str) -> str:
    """Return a model's name with the commit that was read, where it names none itself."""
    from pktkit.checkpoints.reference import parse

    try:
        parsed = parse(reference)
    except UsageError:
        return reference  # a directory that is gone, about which loading has more to say
    places = [place for place in (parsed.base, parsed.adapter) if place is not None]
    commits = revision.split("+")
    if not revision or len(commits) != len(places) or not all(p.repository for p in places):
        return reference
    pairs = zip(places, commits, strict=True)
    return "+".join(p.text if p.revision else f"{p.text}@{commit}" for p, commit in pairs)


def model_prints(pair: PairSpec) -> dict[str, ModelPrint]:
    """Hash the files of both models.

    Raises:
        UsageError: a model is missing; the message says which.
    """
    prints = {}
    for side in ("source", "target"):
        try:
            prints[side] = ModelPrint.of(getattr(pair, side), code=pair.trust_remote_code)
        except UsageError as error:
            raise UsageError(f"{side} model: {error}") from error
    return prints


def task_prints(plan: Plan, registry: Registry) -> dict[str, TaskPrint]:
    """Hash the items of every task of a plan.

    Raises:
        UsageError: a task is missing, or a budget does not fit it.
    """
    return {name: TaskPrint.of(choose_task(registry, name), plan) for name in plan.tasks}


def described(found: Sequence[tuple[str, Any, Any]]) -> list[str]:
    """Write differences as `path: old → new`; of hashes the first 12 digits."""
    return [f"{path}: {_shown(old)} → {_shown(new)}" for path, old, new in found]


def _shown(value: Any) -> str:
    if value is None:
        return "absent"
    text = str(value)
    hexadecimal = len(text) == 64 and all(digit in "0123456789abcdef" for digit in text)
    return f"{text[:12]}…" if hexadecimal else text


def _placed(fields: dict[str, Any]) -> dict[str, Any]:
    """Give embedded models the place that they have in this installation."""
    pair = fields.get("plan", {}).get("pair", {}) if isinstance(fields.get("plan"), dict) else {}
    if isinstance(pair, dict):
        for side, path in zip(("source", "target"), pair_paths(), strict=True):
            if pair.get(side) == EMBEDDED + side:
                pair[side] = str(path)
    return fields
