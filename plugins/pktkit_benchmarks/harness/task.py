"""Task `lm-eval`: the rows of one of the harness's tasks, and what to learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import validators

from pktkit.components import Choice
from pktkit.errors import UsageError
from pktkit.options import option
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit.tasks.jsonl import rows_of
from pktkit.tasks.training import with_training
from pktkit_benchmarks.harness.library import leaves_of


@attrs.frozen
class HarnessTaskOptions:
    """Options of task `lm-eval`."""

    task: str = option("", "Name of a task or group of the harness, as typed after the colon.")
    data: str = option("", "Folder with task files of your own, the harness's include_path.")
    train: str = option("", "File of rows to learn from instead of the harness's training rows.")
    shots: int | None = option(
        None,
        "Solved examples in the prompt; null leaves it to the task.",
        validator=validators.optional(validators.ge(0)),
    )
    metric: str = option("", "Which of the task's metrics; default its first.")
    filter: str = option("", "Which of the task's filters; default its first.")
    chat: bool = option(False, "Ask through the tokenizer's chat template.")


@attrs.frozen
class HarnessTask:
    """Builds a task out of one of the harness's.

    Arguments:
        options: which, and what to learn from.
    """

    Options = HarnessTaskOptions
    argument = "task"
    options: HarnessTaskOptions = attrs.field(factory=HarnessTaskOptions)

    def task(self) -> Task:
        """Return the task: `test` has the rows the harness scores.

        Raises:
            UsageError: the harness is not installed, does not know the task, or cannot load its
                rows.
        """
        options = self.options
        leaves = leaves_of(options.task, options.data)
        metric = options.metric or next(iter(_metrics(next(iter(leaves.values())))), "")
        test = [
            _item(leaf, doc, f"{name}-{number}", {"task": name, "doc_id": number})
            for name, leaf in leaves.items()
            for number, doc in enumerate(_documents(leaf.eval_docs, options.task))
        ]
        task = Task(
            name="lm-eval",
            splits={"test": tuple(test)},
            evaluator=Choice(
                "lm-eval",
                {
                    **{key: getattr(options, key) for key in ("filter", "chat")},
                    "metric": metric,
                    "shots": options.shots,
                    "include_path": options.data,
                    "name": options.task,
                },
            ),
            card=TaskCard(
                summary=f"Task {options.task} of lm-evaluation-harness.",
                metric=metric,
                splitting="as the harness deals them; dev, align and extract by hash",
                mirrors=f"lm-evaluation-harness {options.task}",
            ),
            max_new_tokens=256,
            protocol=f"{options.task}, version {_versions(leaves)}",
            absent=dict.fromkeys(("train", "align", "extract", "dev"), _ADVICE),
        )
        if options.train:
            rows = [row.item for row in rows_of(Path(options.train).expanduser(), "lm-eval")]
            return with_training(task, {"train": rows}, where=options.train)
        own = [
            _item(leaf, doc, f"{name}-train-{number}", {})
            for name, leaf in leaves.items()
            if leaf.has_training_docs()
            for number, doc in enumerate(_documents(leaf.training_docs, options.task))
        ]
        return with_training(task, {"train": own}, where=options.task) if own else task


_ADVICE = (
    "the harness has no training rows for it. Give some with `--task 'lm-eval:NAME?train=FILE'`, "
    "or score untouched models only."
)


def _documents(documents: Any, name: str) -> Iterable[Any]:
    """Return rows of a harness task, given as a property or as a method."""
    try:
        return list(documents() if callable(documents) else documents)
    except Exception as error:
        said = " ".join(str(error).split())[:300].rstrip(".")
        raise UsageError(f"lm-eval: the rows of '{name}' cannot be read: {said}.") from error


def _metrics(leaf: Any) -> Sequence[str]:
    return list(leaf.aggregation())


def _versions(leaves: Mapping[str, Any]) -> str:
    found = {str(getattr(leaf, "VERSION", "")) for leaf in leaves.values()}
    return ", ".join(sorted(found))


def _item(leaf: Any, doc: Mapping[str, Any], name: str, check: Mapping[str, Any]) -> Item:
    """Return one row; what the harness scores is its own reading of it, found by `check`."""
    target = leaf.doc_to_target(doc)
    choices: tuple[str, ...] = ()
    if leaf.OUTPUT_TYPE == "multiple_choice":
        choices = tuple(map(str, leaf.doc_to_choice(doc)))
        if isinstance(target, int) and 0 <= target < len(choices):
            target = choices[target]
    if isinstance(target, list):
        target = target[0] if target else ""
    return Item(name, str(leaf.doc_to_text(doc)), str(target).strip(), choices, check)
