"""What models and data are, as hashes: what must be the same for scores to be the same."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.compare.plan import scored, visible
from pktkit.components import Choice
from pktkit.errors import UsageError
from pktkit.transfer import budget_for

if TYPE_CHECKING:
    from pktkit.compare.plan import Plan
    from pktkit.tasks.base import Item, Task

WEIGHTS = (".safetensors", ".gguf")
CONFIGURATION = ("config.json", "generation_config.json", "adapter_config.json", "states.json")
TOKENIZER = re.compile(
    r"(tokenizer|vocab|merges|added_tokens|special_tokens|chat_template|spiece|tekken).*|.*\.model"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 22


@attrs.frozen
class ModelPrint:
    """A model's files as they are read.

    Arguments:
        revision: commit of a hub model, `BASE+ADAPTER` with an adapter; empty for a directory.
        weights, tokenizer, configuration: SHA-256 by file name.
    """

    revision: str
    weights: Mapping[str, str]
    tokenizer: Mapping[str, str]
    configuration: Mapping[str, str]

    @classmethod
    def of(cls, reference: str, *, code: bool = False) -> ModelPrint:
        """Read a model's files; a hub model is downloaded if it is not in the cache.

        Files of an adapter that is merged are called `adapter/…`.

        Arguments:
            reference: see `pktkit.checkpoints.reference`.
            code: whether modules beside the weights are run, hence are part of the model.

        Raises:
            UsageError: there is no such model, or a file of it cannot be read.
        """
        from pktkit.checkpoints import locate

        found = locate(reference, code=code)
        files = {file.name: file for file in _files(found.path)}
        if found.adapter is not None:
            files |= {f"adapter/{file.name}": file for file in _files(found.adapter)}
        hashes: dict[str, dict[str, str]] = {"weights": {}, "tokenizer": {}, "configuration": {}}
        for name, file in files.items():
            part = _part(file.name, code)
            if part:
                hashes[part][name] = file_hash(file)
        return cls(revision=found.revision, **hashes)


@attrs.frozen
class SplitPrint:
    """The items of a split: how many, and the SHA-256 over all of them in order."""

    items: int
    sha256: str


@attrs.frozen
class TaskPrint:
    """A task as it was scored and learned from.

    Arguments:
        splits: by name.
        evaluator: with its options, except where files of it lie.
        template, max_new_tokens, protocol: of the task.
        budgets: of every strategy that learns, all fields, by name.
        comparability: what a score can be compared with, see `Task.comparability`.
    """

    splits: Mapping[str, SplitPrint]
    evaluator: Choice
    template: str
    max_new_tokens: int
    protocol: str
    budgets: Mapping[str, Mapping[str, Any]]
    comparability: Mapping[str, Any]

    @classmethod
    def of(cls, task: Task, plan: Plan) -> TaskPrint:
        """Hash all items of a task that its run may see.

        Arguments:
            task: with all its items.
            plan: that scores it.

        Raises:
            UsageError: a strategy's budget does not fit the task.
        """
        return cls(
            splits={
                name: SplitPrint(len(items), items_hash(items))
                for name, items in visible(task, plan.split).splits.items()
            },
            evaluator=_placeless(task.evaluator),
            template=task.template,
            max_new_tokens=task.max_new_tokens,
            protocol=task.protocol,
            budgets={
                strategy.name: attrs.asdict(budget_for(task, strategy))
                for strategy in plan.strategies
                if strategy.injector is not None
            },
            comparability=scored(task, plan).comparability(plan.split),
        )


def _placeless(evaluator: Choice) -> Choice:
    """Leave out where files lie, which is another place on every machine."""
    kept = {k: v for k, v in evaluator.options.items() if not k.endswith("_path")}
    return attrs.evolve(evaluator, options=kept)


def items_hash(items: Iterable[Item]) -> str:
    """Return the SHA-256 over every field of items, in order."""
    digest = hashlib.sha256()
    for item in items:
        row = json.dumps(item.to_row(), sort_keys=True, ensure_ascii=False)
        digest.update(f"{row}\n".encode())
    return digest.hexdigest()


def file_hash(file: Path) -> str:
    """Return the SHA-256 of a file.

    The hub's cache names large files by their SHA-256 and has checked them when it stored them;
    the name is believed, since reading a large model takes minutes.

    Raises:
        UsageError: the file cannot be read.
    """
    if file.is_symlink():
        stored = file.resolve()
        if stored.parent.name == "blobs" and _SHA256.fullmatch(stored.name) and stored.exists():
            return stored.name
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(f for f in place.iterdir() if f.is_file())


def _part(name: str, code: bool) -> str:
    """Return which part of a model a file belongs to, or "" for none."""
    if name.endswith((*WEIGHTS, ".safetensors.index.json")):
        return "weights"
    if name in CONFIGURATION or (code and name.endswith(".py")):
        return "configuration"
    return "tokenizer" if TOKENIZER.fullmatch(name) else ""
