"""Scores for a model card: the target before and after, or the rows of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pktkit.distributed.processes import ALONE, Processes
from pktkit.errors import UsageError
from pktkit.journal import Journal
from pktkit.running.scoring import scores_of
from pktkit.running.stages import Stages
from pktkit.statistics import paired_bootstrap

if TYPE_CHECKING:
    from pktkit.outcomes import CellKey, ItemScore
    from pktkit.pair import LoadedModel
    from pktkit.registry import Registry
    from pktkit.tasks.base import Task

RESULTS = "results.json"


def score(
    model: LoadedModel,
    task: Task,
    split: str,
    registry: Registry,
    key: CellKey,
    processes: Processes = ALONE,
) -> Sequence[ItemScore]:
    """Score a model on one split of a task, with the task's own evaluator.

    Of several processes all call this, see `pktkit.running.scoring.scores_of`.
    """
    return scores_of(model, task, split, Stages(key, registry, Journal(model)), processes)


def before_and_after(
    task: Task, split: str, before: Sequence[ItemScore], after: Sequence[ItemScore]
) -> dict[str, Any]:
    """Return two scores of the same items in percent, and their paired difference in points."""
    first = {item.item: item.score for item in before}
    last = {item.item: item.score for item in after}
    difference = [last[item] - first[item] for item in first]
    interval = paired_bootstrap(difference)
    return {
        "task": task.name,
        "split": split,
        "metric": task.card.metric,
        "items": len(first),
        "before": 100 * sum(first.values()) / len(first),
        "after": 100 * sum(last.values()) / len(last),
        "difference": 100 * sum(difference) / len(difference),
        "low": 100 * interval.low,
        "high": 100 * interval.high,
    }


def of_run(run: Path, strategy: str, task: str) -> list[dict[str, Any]]:
    """Return the rows of a comparison that a model card shows.

    Arguments:
        run: folder of `pktkit compare`.
        strategy, task: what was transferred.

    Returns:
        For every row: strategy, mean in percent, seeds, difference to the untouched target with
        interval, and the corrected p-value; None where a row has none.

    Raises:
        UsageError: there are no results, or not of this strategy on this task.
    """
    try:
        content = json.loads((run / RESULTS).read_text(encoding="utf-8"))
        comparisons: Mapping[str, Any] = content["scores"]
        found = [c for c in comparisons.values() if c["task"] == task]
        rows = [row for c in found[:1] for row in c["rows"]]
        names = [row["strategy"] for row in rows]
        if found and strategy in names:
            return [_row(row) for row in rows if not row["failed"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--card-scores {run}: no results to be read ({RESULTS}: {error})."
        ) from error
    has = f"strategies {', '.join(names)}" if found else f"tasks {', '.join(comparisons)}"
    raise UsageError(
        f"--card-scores {run} holds no scores of strategy '{strategy}' on task '{task}': it has "
        f"{has}."
    )


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    contrast = row["against_target"] or {}
    return {
        "strategy": row["strategy"],
        "mean": row["mean"],
        "seeds": len(row["seeds"]),
        **{key: contrast.get(key) for key in ("points", "low", "high", "adjusted_p")},
    }
