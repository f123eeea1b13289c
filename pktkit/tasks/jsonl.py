"""Tasks from files: JSON lines, a JSON list, Parquet, or a YAML description beside them.

A row is `{"question", "answer"}` as in GSM8K (the answer ends in `#### 24`), a conversation
`{"messages": [user, assistant]}`, or `{"prompt", "answer"}`. `id`, `split`, `choices` and `check`
are optional in each; other fields are ignored. A description names the rows and says what
differs from the defaults:

    rows: problems.jsonl          # or {train: a.jsonl, align: b.jsonl, …}; beside this file
    name: problems
    template: tulu
    evaluator: {name: exact-match, extract: last-number}
    max_new_tokens: 200
    budget: {steps: 100}
    summary: Word problems of our own.

`columns: {prompt: "Q: {query}", answer: label}` reads rows with columns of other names. With
`evaluate: gsm8k`, or any other reference, that task is scored and the rows are what a transfer
learns from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from pktkit.components import Choice
from pktkit.encoding import template as find_template
from pktkit.errors import UsageError, unknown_name
from pktkit.tasks.base import SPLITS, Item, Task, TaskCard
from pktkit.tasks.columns import shaped
from pktkit.tasks.jsonl_files import (
    DESCRIPTIONS,
    ENDINGS,
    ROW_FILES,
    is_task_file,
    read_description,
    read_rows,
)
from pktkit.tasks.jsonl_rows import Row, normalised, read_row
from pktkit.tasks.reference import parse_reference
from pktkit.tasks.splitting import digest
from pktkit.tasks.training import with_training

SHARES: Mapping[str, float] = {
    "test": 0.25,
    "dev": 0.10,
    "extract": 0.07,
    "align": 0.08,
    "train": 0.50,
}
"""Expected share of the rows in each split, when the rows name none."""

NEW_TOKENS: Mapping[str, int] = {"last-number": 256, "choice": 8, "all": 64}
"""How far generation may go, by the kind of answer."""


def resolve_task(
    reference: str, known: Iterable[str], build: Callable[..., Task], *, template: str = "plain"
) -> Task:
    """Find a task: a registered name, alone or in a reference, or else the path of a task file.

    Arguments:
        reference: what was typed after `--task`, see `pktkit.tasks.reference`.
        known: names of the registered tasks.
        build: returns a registered task by name; a `TaskReference` follows where more was said.
        template: for rows files, see `load_task`.

    Raises:
        UsageError: neither a name nor a task file, or a file with faults.
    """
    names = tuple(known)
    if reference in names:
        return build(reference)
    parsed = parse_reference(reference)
    if parsed is not None and parsed.name in names:
        return build(parsed.name, parsed)
    if is_task_file(reference):
        resolve = partial(resolve_task, known=names, build=build)
        return load_task(reference, template=template, resolve=resolve)
    error = unknown_name("task", reference if parsed is None else parsed.name, names)
    raise UsageError(f"{error} A file of rows must end in {ENDINGS}.")


def load_task(
    path: str | Path,
    *,
    template: str = "plain",
    name: str | None = None,
    resolve: Callable[[str], Task] | None = None,
) -> Task:
    """Read a task from a file of rows or from a description.

    Rows without `split` are dealt by a hash of their prompt, hence a row stays in its split when
    others are added. Numeric answers are scored by their last number, rows with choices by
    likelihood, others by exact match of the whole answer.

    Arguments:
        path: a file ending in `.jsonl`, `.json`, `.parquet`, `.yaml` or `.yml`.
        template: how prompt and answer are joined; a description's own setting comes first.
        name: the task's name; default the description's, or the file's name without its ending.
        resolve: finds the task that a description's `evaluate` names.

    Raises:
        UsageError: the file is missing, is not what its ending says, has a faulty row (the
            message names line and field), repeats a prompt or id, or leaves a split empty.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix in ROW_FILES:
        return _task(path, {"rows": path.name}, template, name)
    if suffix in DESCRIPTIONS:
        described = read_description(path)
        if "evaluate" in described:
            return _evaluated(path, described, name, resolve)
        return _task(path, described, template, name)
    raise UsageError(f"task file {path} must end in one of {ENDINGS}.")


def _task(path: Path, described: Mapping[str, Any], template: str, name: str | None) -> Task:
    name = name or described.get("name") or re.sub(r"[^\w.-]+", "-", path.stem)
    template = described.get("template", template)
    find_template(template)
    rows = _all_rows(path, described, name)
    _refuse_repeats(rows)
    kind, evaluator = _evaluator(rows, path)
    given = described.get("evaluator")
    if given is not None:
        options = {"name": given} if isinstance(given, str) else dict(given)
        evaluator = Choice(options.pop("name"), options)
    return Task(
        name=name,
        splits=_splits(rows, path),
        evaluator=evaluator,
        card=_card(described.get("summary", f"Rows of {path.name}."), evaluator, rows),
        max_new_tokens=described.get("max_new_tokens", NEW_TOKENS[kind]),
        template=template,
        budget=described.get("budget", {}),
    )


def _evaluated(
    path: Path,
    described: Mapping[str, Any],
    name: str | None,
    resolve: Callable[[str], Task] | None,
) -> Task:
    """Score one task, learn from the rows of another file."""
    if resolve is None:
        raise UsageError(f"{path}: 'evaluate' names a task, give this file to --task.")
    reference = described["evaluate"]
    if is_task_file(reference):
        reference = str(path.parent / reference)
    task = resolve(reference)
    if "rows" in described:
        rows = _all_rows(path, described, task.name)
        _refuse_repeats(rows)
        splits: dict[str, list[Item]] = {split: [] for split in ("train", "align", "extract")}
        for row in rows:
            split = row.split or split_of(row.item.prompt)
            splits[split if split in splits else "train"].append(row.item)
        task = with_training(task, splits, where=str(path))
    changes = {key: described[key] for key in _EVALUATED if key in described}
    summary = described.get("summary", task.card.summary)
    return attrs.evolve(
        task,
        name=name or described.get("name") or path.stem,
        card=attrs.evolve(task.card, summary=summary),
        **changes,
    )


_EVALUATED = ("template", "max_new_tokens", "budget")
"""Keys of a description that replace what the evaluated task says."""


def _card(summary: str, evaluator: Choice, rows: Sequence[Row]) -> TaskCard:
    hashed = "the prompt, regardless of case and white space"
    return TaskCard(
        summary=summary,
        metric=_METRICS.get(evaluator.name, evaluator.name),
        splitting="as the rows say; no prompt is in two splits" if rows[0].split else hashed,
        overlap="not examined beyond equal prompts",
    )


_METRICS = {
    "exact-match": "exact match",
    "multiple-choice": "accuracy",
    "code-execution": "pass@1",
}


def _evaluator(rows: Sequence[Row], path: Path) -> tuple[str, Choice]:
    """Choose the evaluator that the rows' answers call for, and name the kind of answer."""
    with_choices = [row for row in rows if row.item.choices]
    if with_choices and len(with_choices) < len(rows):
        odd = next(row for row in rows if not row.item.choices)
        raise UsageError(
            f"{odd.where}: field 'choices' is missing, but other rows of {path.name} have it. "
            "Give it to all rows or to none."
        )
    if with_choices:
        return "choice", Choice("multiple-choice")
    if all(row.numeric for row in rows):
        return "last-number", Choice("exact-match", {"extract": "last-number"})
    return "all", Choice("exact-match", {"extract": "all"})


def _splits(rows: Sequence[Row], path: Path) -> dict[str, tuple[Item, ...]]:
    """Deal the rows, in the file's order within each split."""
    named = [row for row in rows if row.split]
    if named and len(named) < len(rows):
        odd = next(row for row in rows if not row.split)
        raise UsageError(
            f"{odd.where}: field 'split' is missing, but other rows of {path.name} have it. "
            "Give it to all rows or to none."
        )
    dealt: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for row in rows:
        dealt[row.split or split_of(row.item.prompt)].append(row.item)
    empty = [split for split, items in dealt.items() if not items]
    if empty:
        counts = ", ".join(f"{split} {len(items)}" for split, items in dealt.items())
        advice = "Add rows for them" if named else "Add rows, or give every row a field 'split'"
        raise UsageError(
            f"{path}: {len(rows)} rows are too few, they leave {' and '.join(empty)} empty "
            f"({counts}). {advice}."
        )
    return {split: tuple(items) for split, items in dealt.items()}


def split_of(prompt: str) -> str:
    """Return the split that the hash of a prompt decides."""
    place = digest(f"rows|{normalised(prompt)}") / 2**64
    for split, share in SHARES.items():
        place -= share
        if place < 0:
            return split
    return "train"


def _refuse_repeats(rows: Iterable[Row]) -> None:
    """Refuse a second row with the same id or the same prompt."""
    seen: dict[tuple[str, str], str] = {}
    for row in rows:
        for what, key in (("prompt", normalised(row.item.prompt)), ("id", row.item.id)):
            if (what, key) in seen:
                first = seen[what, key]
                raise UsageError(f"{row.where}: the {what} is the same as at {first}.")
            seen[what, key] = row.where


def _all_rows(path: Path, described: Mapping[str, Any], name: str) -> list[Row]:
    """Read the rows of one file, or of one file per split."""
    rows, columns = described["rows"], described.get("columns", {})
    files = {"": rows} if isinstance(rows, str) else rows
    return [
        row
        for split, file in files.items()
        for row in rows_of(path.parent / file, name, split=split, columns=columns)
    ]


def rows_of(
    path: Path, name: str, *, split: str = "", columns: Mapping[str, str] | None = None
) -> list[Row]:
    """Read a file of rows.

    Arguments:
        path: the file.
        name: the task's name, which begins ids made here.
        split: the split of all rows; empty where the rows say it themselves.
        columns: see `pktkit.tasks.columns`.

    Raises:
        UsageError: the file cannot be read, has no rows, or a faulty one.
    """
    rows = []
    for where, value in read_rows(path):
        row = shaped(value, columns, where) if columns else value
        row = {**row, "split": split} if split and isinstance(row, dict) else row
        rows.append(read_row(row, where, name))
    if not rows:
        raise UsageError(f"{path} has no rows.")
    return rows
