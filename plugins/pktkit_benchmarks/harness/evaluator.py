"""Evaluator `lm-eval`: the harness runs the model and scores the items that came from it."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators

from pktkit.errors import StrategyError, UsageError, did_you_mean
from pktkit.options import option
from pktkit.outcomes import ItemScore
from pktkit.tasks.base import Item, Task
from pktkit_benchmarks.harness.library import index_of, quiet, require_installed, same_randomness

if TYPE_CHECKING:
    from pktkit.pair import LoadedModel


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
        require_installed()
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        options = self.options
        try:
            with quiet(), same_randomness():
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
                    task_manager=index_of(options.include_path, next(iter(wanted))),
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
