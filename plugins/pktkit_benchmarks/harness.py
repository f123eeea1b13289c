"""`lm-eval`: any task of lm-evaluation-harness, one score per item, through its Python API.

The harness builds the prompts, runs the model that is in memory, and scores; what it logs for
every item becomes the item's score. Its own training rows, where a task has some, or a file of
the user's, are what a transfer learns from.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import io
import logging
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators

from pktkit.components import Choice
from pktkit.errors import StrategyError, UsageError, did_you_mean
from pktkit.options import option
from pktkit.outcomes import ItemScore
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit.tasks.jsonl import rows_of
from pktkit.tasks.training import with_training

if TYPE_CHECKING:
    from pktkit.pair import LoadedModel


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
        leaves = _leaves(options.task, options.data)
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


@attrs.frozen
class HarnessOptions:
    """Options of evaluator `lm-eval`."""

    name: str = option("", "The task or group, for messages.")
    include_path: str = option("", "Folder with task files of one's own.")
    shots: int | None = option(None, "Solved examples in the prompt.")
    metric: str = option("", "Which of the task's metrics; default its first.")
    filter: str = option("", "Which of the task's filters; default its first.")
    chat: bool = option(False, "Ask through the tokenizer's chat template.")
    batch_size: int = option(8, "Sequences at once.", validator=validators.ge(1))


@attrs.frozen
class Harness:
    """Lets the harness score the items that came from it.

    Arguments:
        options: metric and prompts.
    """

    Options = HarnessOptions
    options: HarnessOptions = attrs.field(factory=HarnessOptions)

    def evaluate(self, model: LoadedModel, task: Task, split: str) -> list[ItemScore]:
        """Return one score per item of `split`, in the split's order.

        Raises:
            UsageError: the items are not the harness's, or the metric has no score per item.
            StrategyError: the harness failed.
        """
        items = task.items(split)
        wanted: dict[str, list[int]] = defaultdict(list)
        for item in items:
            if "doc_id" not in item.check:
                raise UsageError(
                    f"lm-eval: item '{item.id}' is no row that the harness scores; only split "
                    "'test' is scored."
                )
            wanted[item.check["task"]].append(item.check["doc_id"])
        logged = self._run(model, wanted)
        found = {
            (name, sample["doc_id"]): sample
            for name, samples in logged.items()
            for sample in self._filtered(name, samples)
        }
        return [
            self._score(item, found[item.check["task"], item.check["doc_id"]]) for item in items
        ]

    def _run(
        self, model: LoadedModel, wanted: Mapping[str, list[int]]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Return what the harness logs for every item, by task."""
        _require()
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        options = self.options
        try:
            with _quiet(), _same_randomness():
                # The harness sets padding on the tokenizer, which is ours and shared.
                lm = HFLM(
                    pretrained=model.model,
                    tokenizer=copy.deepcopy(model.tokenizer),
                    batch_size=options.batch_size,
                )
                results = simple_evaluate(
                    model=lm,
                    tasks=list(wanted),
                    samples={name: sorted(numbers) for name, numbers in wanted.items()},
                    num_fewshot=options.shots,
                    log_samples=True,
                    bootstrap_iters=0,
                    apply_chat_template=options.chat,
                    task_manager=_manager(options.include_path, next(iter(wanted))),
                )
        except Exception as error:
            # The harness raises whatever the code of its tasks raises.
            said = " ".join(str(error).split())[:300].rstrip(".")
            raise StrategyError(
                f"lm-eval: task '{options.name}' failed: {type(error).__name__}: {said}."
            ) from error
        assert results is not None
        return dict(results["samples"])

    def _filtered(
        self, name: str, samples: Sequence[Mapping[str, Any]]
    ) -> Iterator[Mapping[str, Any]]:
        filters = list(dict.fromkeys(str(sample["filter"]) for sample in samples))
        wanted = self.options.filter or filters[0]
        if wanted not in filters:
            raise UsageError(
                f"lm-eval: task '{name}' has no filter '{wanted}'.{did_you_mean(wanted, filters)} "
                f"Known: {', '.join(filters)}."
            )
        return (sample for sample in samples if sample["filter"] == wanted)

    def _score(self, item: Item, sample: Mapping[str, Any]) -> ItemScore:
        metrics = list(sample["metrics"])
        metric = self.options.metric or metrics[0]
        if metric not in metrics:
            raise UsageError(
                f"lm-eval: task '{item.check['task']}' has no metric '{metric}'."
                f"{did_you_mean(metric, metrics)} Known: {', '.join(metrics)}."
            )
        try:
            score = float(sample[metric])
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"lm-eval: metric '{metric}' of task '{item.check['task']}' has no score per item "
                f"(got {str(sample[metric])[:40]}). Its metrics: {', '.join(metrics)}."
            ) from error
        said = sample["filtered_resps"]
        return ItemScore(item.id, score, said[0] if _one_text(said) else _chosen(item, said))


def _one_text(said: Any) -> bool:
    return isinstance(said, list) and len(said) == 1 and isinstance(said[0], str)


def _chosen(item: Item, said: Any) -> str:
    """Return the likeliest choice, where there is a likelihood for each."""
    try:
        likelihoods = [float(pair[0]) for pair in said]
    except (TypeError, ValueError, IndexError):
        return ""
    if len(likelihoods) != len(item.choices):
        return ""
    return item.choices[max(range(len(likelihoods)), key=likelihoods.__getitem__)]


def _require() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError("lm-evaluation-harness is not installed: pip install 'pktkit[lm-eval]'.")


@functools.lru_cache(maxsize=4)
def _index(include_path: str, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    with _quiet():
        return TaskManager(include_path=include_path or None, include_defaults=defaults)


def _manager(include_path: str, name: str) -> Any:
    """Return an index that knows the task; reading the harness's own thousands takes seconds."""
    if include_path:
        manager = _index(str(Path(include_path).expanduser()), False)
        if manager.match_tasks([name]):
            return manager
    return _index(str(Path(include_path).expanduser()) if include_path else "", True)


def _leaves(name: str, include_path: str) -> dict[str, Any]:
    """Return the harness's tasks by name; a group has several.

    Raises:
        UsageError: no such task, or its rows cannot be loaded.
    """
    _require()
    if not name:
        raise UsageError("name a task of the harness, e.g. --task lm-eval:arc_easy.")
    if include_path and not Path(include_path).expanduser().is_dir():
        raise UsageError(f"folder of task files {include_path} does not exist.")
    manager = _manager(include_path, name)
    if not manager.match_tasks([name]):
        raise UsageError(
            f"lm-evaluation-harness has no task '{name}'.{did_you_mean(name, manager.all_tasks)} "
            "`lm-eval ls tasks` lists them; task files of your own are found with "
            "`--task lm-eval:NAME@FOLDER`."
        )
    try:
        with _quiet(), _same_randomness():
            leaves = dict(manager.load([name])["tasks"])
    except Exception as error:
        # Loading runs the task's own code and fetches its data set.
        said = " ".join(str(error).split())[:300].rstrip(".")
        raise UsageError(
            f"lm-evaluation-harness cannot load task '{name}': {type(error).__name__}: {said}. Its "
            "rows come from the Hub and are cached once loaded while connected."
        ) from error
    if not leaves:
        raise UsageError(f"lm-evaluation-harness has no rows for '{name}'.")
    return leaves


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's log lines and progress bars out of ours."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _same_randomness() -> Iterator[None]:
    """Put random states back: the harness seeds all of them, which later cells would feel."""
    import numpy
    import torch

    states = random.getstate(), numpy.random.get_state()
    devices = range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
