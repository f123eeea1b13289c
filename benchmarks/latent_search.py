"""The search behind `docs/results.md`: which activation-based recipe wins, where, and why.

Every configuration is a registered strategy with options set as `--set` sets them. Configurations
are tried on dev; the chosen ones are run on test once, at every data budget, with five seeds and
all controls. Finished cells are kept: the same command again goes on where it stopped.

Run: python benchmarks/latent_search.py run STAGE --out DIRECTORY [--tasks …] [--settings …]
     python benchmarks/latent_search.py table STAGE --out DIRECTORY
     python benchmarks/latent_search.py plot STAGE --out DIRECTORY --arms … --settings …
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

from pktkit import statistics
from pktkit.compare.plan import PairSpec, Plan
from pktkit.compare.workers import available_cores, run_cells
from pktkit.components import Strategy
from pktkit.discovery.plugins import PluginSelection
from pktkit.outcomes import CellResult
from pktkit.overrides import apply_all
from pktkit.registry import Registry
from pktkit.report.records import Comparison, Contrast, Summary
from pktkit.report.rundir import CELLS, RunDirectory
from pktkit.report.summary import summarise
from pktkit.zoo import pair_paths

DRAWS = 40_000
"""Bootstrap draws per contrast: p-values must stay small under correction over whole tables."""

CONFIGURATIONS = Path(__file__).with_name("latent_search.yaml")


@attrs.frozen
class Setting:
    """A data budget that all arms share.

    Arguments:
        name: for folders and tables.
        budget: fields of `pktkit.budget.Budget`, over the task's own.
    """

    name: str
    budget: Mapping[str, Any]


@attrs.frozen
class Stage:
    """One round of the search, as written in `latent_search.yaml`.

    Arguments:
        split: where scores are read.
        seeds: how many.
        tasks: registered tasks.
        settings: data budgets, by task or for all.
        arms: per arm, the strategy it starts from and what is set on it.
    """

    split: str
    seeds: int
    tasks: Sequence[str]
    settings: Mapping[str, Sequence[Setting]]
    arms: Mapping[str, Sequence[str]]

    @classmethod
    def load(cls, name: str) -> Stage:
        """Read a stage of the configuration file."""
        document = yaml.safe_load(CONFIGURATIONS.read_text(encoding="utf-8"))
        stage = document["stages"][name]
        arms: dict[str, Sequence[str]] = {}
        for group in stage["arms"]:
            arms |= {arm: text.split() for arm, text in document["arms"][group].items()}
        settings = {
            task: [
                Setting(label, {**document["settings"][label].get("all", {}), **of_task})
                for label in stage["settings"]
                if (of_task := document["settings"][label].get(task, {})) is not None
            ]
            for task in stage["tasks"]
        }
        return cls(stage["split"], stage["seeds"], stage["tasks"], settings, arms)

    def strategies(self, registry: Registry, setting: Setting) -> list[Strategy]:
        """Return every arm as a strategy of its own, with the setting's budget."""
        found = []
        for arm, (base, *overrides) in self.arms.items():
            strategy = attrs.evolve(registry.strategy(base), name=arm)
            if overrides:
                strategy = apply_all([strategy], overrides, registry)[0]
            if any("placebo=" in override for override in overrides):
                strategy = attrs.evolve(strategy, role="placebo")
            if strategy.injector is not None:
                strategy = attrs.evolve(strategy, budget={**setting.budget, **strategy.budget})
            found.append(strategy)
        return found


def folder(out: Path, stage: str, task: str, setting: Setting) -> Path:
    """Return where the cells of one grid point are kept."""
    return out / stage / f"{task}-{setting.name}"


def run(name: str, out: Path, tasks: Sequence[str], wanted: Sequence[str], jobs: int) -> None:
    """Run every missing cell of a stage."""
    registry, stage = Registry.discover(), Stage.load(name)
    for task in tasks or stage.tasks:
        for setting in stage.settings[task]:
            if wanted and setting.name not in wanted:
                continue
            plan = Plan(
                pair=PairSpec(*map(str, pair_paths())),
                strategies=tuple(stage.strategies(registry, setting)),
                tasks=(task,),
                seeds=tuple(range(stage.seeds)),
                split=stage.split,
                selection=PluginSelection.from_user(None),
                allow_code_execution=True,  # the expressions of task `code`, in the sandbox
            )
            _complete(plan, folder(out, name, task, setting), out / "readings", jobs)


def _complete(plan: Plan, path: Path, cache: Path, jobs: int) -> None:
    known = (path / CELLS).exists()
    directory = RunDirectory.reopen(path) if known else RunDirectory.create(path)
    done = {cell.key for cell in directory.cells() if not cell.failed}
    missing = [key for key in plan.cells() if key not in done]
    print(f"{path.name}: {len(missing)} cells to run", flush=True)
    for result in run_cells(plan, missing, jobs=jobs, cache=cache, progress=lambda *_: None):
        directory.append_cell(result)
        outcome = f"FAILED {result.error}" if result.failed else f"{100 * result.mean:.1f}"
        print(f"  {result.key.strategy} seed {result.key.seed}: {outcome}", flush=True)


def summaries(
    name: str,
    out: Path,
    *,
    draws: int,
    only: Collection[str] = (),
    references: Collection[str] = (),
) -> Iterator[tuple[str, Setting, Summary]]:
    """Yield the summary of every grid point that has cells, of the arms in `only` if any.

    Methods among the references are something to compare with, as baselines are.
    """
    registry, stage = Registry.discover(), Stage.load(name)
    for task in stage.tasks:
        for setting in stage.settings[task]:
            path = folder(out, name, task, setting)
            if not (path / CELLS).exists():
                continue
            strategies = {
                strategy.name: _referred(strategy) if strategy.name in references else strategy
                for strategy in stage.strategies(registry, setting)
                if not only or strategy.name in only
            }
            cells = [c for c in RunDirectory(path).cells() if c.key.strategy in strategies]
            yield (
                task,
                setting,
                summarise(cells, roles=_roles(strategies.values(), cells), n_boot=draws),
            )


def _referred(strategy: Strategy) -> Strategy:
    """Return a strategy as something to compare with."""
    return attrs.evolve(strategy, role="baseline") if strategy.role == "method" else strategy


def _roles(strategies: Iterable[Strategy], cells: Sequence[CellResult]) -> dict[str, str]:
    present = {cell.key.strategy for cell in cells}
    return {strategy.name: strategy.role for strategy in strategies if strategy.name in present}


def scores(name: str, out: Path) -> str:
    """Return one Markdown table per task: arms down, data budgets across, mean ± deviation."""
    found = list(summaries(name, out, draws=1))
    parts = []
    for task in dict.fromkeys(task for task, *_ in found):
        columns = [(s.name, summary.comparisons[0]) for t, s, summary in found if t == task]
        arms = list(dict.fromkeys(row.strategy for _, c in columns for row in c.rows))
        lines = [
            f"### {task}",
            "",
            "| | " + " | ".join(label for label, _ in columns) + " |",
            "|:--|" + "--:|" * len(columns),
        ]
        for arm in arms:
            lines.append(f"| {arm} | " + " | ".join(_cell(c, arm) for _, c in columns) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(comparison: Comparison, arm: str) -> str:
    for row in comparison.rows:
        if row.strategy == arm and row.mean is not None:
            return f"{row.mean:.1f}" + ("" if row.deviation is None else f" ± {row.deviation:.1f}")
    return "–"


def contrasts(name: str, out: Path, arms: Sequence[str], references: Sequence[str]) -> str:
    """Return a Markdown table of differences in points with 95 % intervals.

    Bold: p below 0.05 after Holm over all rows of the table, for each reference on its own.
    """
    found = [
        (task, setting, summary.comparisons[0], arm)
        for task, setting, summary in summaries(
            name, out, draws=DRAWS, only={*arms, *references}, references=references
        )
        for arm in arms
    ]
    columns = [_column(reference, [(c, arm) for *_, c, arm in found]) for reference in references]
    heading = " | ".join(f"− {reference}" for reference in references)
    lines = [
        f"| task | budget | arm | {heading} |",
        "|:--|:--|:--|" + "--:|" * len(references),
    ]
    for row, (task, setting, _, arm) in enumerate(found):
        cells = [column[row] for column in columns]
        if any(cell != "–" for cell in cells):
            lines.append(f"| {task} | {setting.name} | {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _column(reference: str, rows: Sequence[tuple[Comparison, str]]) -> list[str]:
    """Return one reference's cells, corrected over all of them."""
    contrasts = [
        next((c for c in comparison.contrasts_of(arm) if c.reference == reference), None)
        for comparison, arm in rows
    ]
    adjusted = iter(statistics.holm([c.p for c in contrasts if c is not None]))
    return ["–" if c is None else _difference(c, next(adjusted)) for c in contrasts]


def _difference(contrast: Contrast, adjusted: float) -> str:
    low, high = contrast.interval.low, contrast.interval.high
    text = f"{contrast.points:+.1f} [{low:+.1f}, {high:+.1f}]"
    separable = adjusted < contrast.alpha and not low <= 0.0 <= high
    return f"**{text}**" if separable else text


def curves(name: str, out: Path, arms: Sequence[str], settings: Sequence[str]) -> bytes:
    """Return learning curves as PNG: one panel per task, data budgets across.

    A line per arm: its mean above that of the first arm, in points.
    """
    from pktkit.plotting import Line, Panel, lines

    found = list(summaries(name, out, draws=1, only=arms))
    panels = []
    for task in dict.fromkeys(task for task, *_ in found):
        of_task = {s.name: summary.comparisons[0] for t, s, summary in found if t == task}
        shown = [setting for setting in settings if setting in of_task]
        values = {arm: [_mean(of_task[setting], arm) for setting in shown] for arm in arms}
        base, *others = arms
        drawn = [
            Line(arm, [v - b for v, b in zip(values[arm], values[base], strict=True)], style)
            for style, arm in enumerate(others)
        ]
        panels.append(Panel(task, shown, drawn))
    return lines(panels, label=f"points above {arms[0]}", across="data budget")


def _mean(comparison: Comparison, arm: str) -> float:
    means = [row.mean for row in comparison.rows if row.strategy == arm]
    return float("nan") if not means or means[0] is None else means[0]


def main() -> None:
    """Run a stage, print its tables, or draw its learning curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("run", "table", "plot"))
    parser.add_argument("stage")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="")
    parser.add_argument("--settings", default="")
    parser.add_argument("--arms", default="latent")
    parser.add_argument("--references", default="sft,kd,seqkd,random,shuffled,identity-self")
    parser.add_argument("--jobs", type=int, default=available_cores())
    given = parser.parse_args()
    split = lambda text: [part for part in text.split(",") if part]  # noqa: E731
    if given.action == "run":
        run(given.stage, given.out, split(given.tasks), split(given.settings), given.jobs)
        return
    if given.action == "plot":
        path = given.out / f"{given.stage}.png"
        path.write_bytes(curves(given.stage, given.out, split(given.arms), split(given.settings)))
        print(path)
        return
    print(scores(given.stage, given.out))
    print()
    print(contrasts(given.stage, given.out, split(given.arms), split(given.references)))


if __name__ == "__main__":
    main()
