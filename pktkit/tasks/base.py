"""What a task is: items in five splits, how they are scored, and the budget it asks for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.components import Choice
from pktkit.converters import as_tuple
from pktkit.errors import UsageError

if TYPE_CHECKING:
    from datasets import DatasetDict

SPLITS = ("train", "align", "extract", "dev", "test")
"""train: rows a transfer may fit on; align: rows aligners fit on; extract: rows attribution and
sensitivity read; dev: where settings are chosen; test: where results are reported."""


@attrs.frozen
class Item:
    """One question.

    Arguments:
        id: unique within the task and stable between runs.
        prompt: what the model reads.
        answer: the gold continuation, the only supervised text.
        choices: for multiple choice, the continuations compared by likelihood; `answer` is one.
        check: what the evaluator needs beyond the answer (for code: inputs and outputs).
    """

    id: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    check: Mapping[str, Any] = attrs.field(factory=dict)

    def to_row(self) -> dict[str, Any]:
        """Return the item as one row of a `datasets.Dataset`; `check` travels as JSON."""
        return {
            "id": self.id,
            "prompt": self.prompt,
            "answer": self.answer,
            "choices": list(self.choices),
            "check": json.dumps(dict(self.check), sort_keys=True),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Item:
        """Read an item back from a dataset row."""
        return cls(
            id=row["id"],
            prompt=row["prompt"],
            answer=row["answer"],
            choices=tuple(row["choices"]),
            check=json.loads(row["check"]),
        )


@attrs.frozen
class TaskCard:
    """What a reader must know before believing a score.

    Arguments:
        summary: one sentence.
        mirrors: the public benchmark the task stands for, if any.
        metric: name of the score, in per cent.
        splitting: what makes two items the same computation, hence the same split.
        overlap: what transfer and test rows share, in words ("none" is a claim that is tested).
    """

    summary: str
    metric: str
    splitting: str
    overlap: str = "none"
    mirrors: str = ""


@attrs.frozen
class Task:
    """Items in five splits with an evaluator and a default transfer budget.

    Arguments:
        name: as typed after `--task`.
        splits: items of each split, see `SPLITS`; `dataset_dict` gives them as `datasets`.
        evaluator: the registered evaluator that scores the items, with its options.
        card: what the task measures.
        max_new_tokens: how far generation may go.
        template: how prompt and answer are joined, see `pktkit.encoding.TEMPLATES`.
        budget: fields of `pktkit.budget.Budget` that suit the task.
        protocol: name of the prompts and settings, for public benchmarks that have several.
        absent: by split that has no items, why, and what to do about it.
    """

    name: str
    splits: Mapping[str, tuple[Item, ...]]
    evaluator: Choice
    card: TaskCard
    max_new_tokens: int = 32
    template: str = "plain"
    budget: Mapping[str, Any] = attrs.field(factory=dict)
    protocol: str = ""
    absent: Mapping[str, str] = attrs.field(factory=dict)

    def items(self, split: str) -> tuple[Item, ...]:
        """Return the items of one split.

        Raises:
            UsageError: the task has no such split, or no rows for it.
        """
        if split in self.absent:
            raise UsageError(f"task '{self.name}' has no '{split}' rows: {self.absent[split]}")
        if split not in self.splits:
            raise UsageError(
                f"task '{self.name}' has no split '{split}'; it has {', '.join(self.splits)}."
            )
        return self.splits[split]

    def comparability(self, split: str) -> dict[str, Any]:
        """Return what two scores must share to be compared, and a key that says whether they do.

        Arguments:
            split: where scores are read, cut to the items that are scored.

        Returns:
            Benchmark, metric, protocol, template, split, number of items, a hash of their
            prompts and gold answers, evaluator with options, longest answer; and `key`, a hash of
            all that. Equal keys: the same questions, asked and scored in the same way.
        """
        items = self.items(split)
        content = hashlib.sha256()
        for item in items:
            content.update(json.dumps(item.to_row(), sort_keys=True).encode())
        facts: dict[str, Any] = {
            "task": self.name,
            "metric": self.card.metric,
            "protocol": self.protocol,
            "template": self.template,
            "split": split,
            "items": len(items),
            "content": content.hexdigest()[:16],
            "evaluator": self.evaluator.name,
            # Where files lie says nothing about what is asked.
            "options": {
                name: value
                for name, value in self.evaluator.options.items()
                if not name.endswith("_path")
            },
            "max_new_tokens": self.max_new_tokens,
        }
        text = json.dumps(facts, sort_keys=True, default=str)
        return {"key": hashlib.sha256(text.encode()).hexdigest()[:12], **facts}

    def dataset_dict(self) -> DatasetDict:
        """Return the splits as a `datasets.DatasetDict` with one row per item."""
        from datasets import Dataset, DatasetDict, Features, List, Value

        features = Features(
            {
                "id": Value("string"),
                "prompt": Value("string"),
                "answer": Value("string"),
                "choices": List(Value("string")),
                "check": Value("string"),
            }
        )
        return DatasetDict(
            {
                name: Dataset.from_list([item.to_row() for item in items], features=features)
                for name, items in self.splits.items()
            }
        )

    @classmethod
    def from_datasets(
        cls, splits: Mapping[str, Iterable[Mapping[str, Any]]], **fields: Any
    ) -> Task:
        """Build a task from a `DatasetDict` (or any mapping of row iterables)."""
        items = {name: tuple(Item.from_row(row) for row in rows) for name, rows in splits.items()}
        return cls(splits=items, **fields)
