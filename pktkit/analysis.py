"""What an analysis is given, and what it returns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.components import Choice, Kind, Strategy
from pktkit.converters import as_tuple
from pktkit.errors import UsageError
from pktkit.journal import Journal
from pktkit.outcomes import Figure, ReportSection
from pktkit.recipe import load_recipe
from pktkit.running.stages import seeded
from pktkit.transfer import Transferred, budget_for, run_transfer, transfer_data
from pktkit.values import Interface, Origin

if TYPE_CHECKING:
    from pktkit.pair import LoadedModel, ModelPair
    from pktkit.probe import Probe, StateReader
    from pktkit.registry import Registry


@attrs.frozen
class Table:
    """The figures of an analysis at a glance; every cell is text.

    Arguments:
        headings: one per column; the first column holds names, the others figures.
        rows: as many cells each as there are headings.
    """

    headings: tuple[str, ...] = attrs.field(converter=as_tuple)
    rows: tuple[tuple[str, ...], ...] = attrs.field(converter=as_tuple)

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [self.headings, [":--"] + ["--:"] * (len(self.headings) - 1), *self.rows]
        return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


@attrs.frozen
class AnalysisResult:
    """What an analysis found.

    Arguments:
        title: heading of its section.
        markdown: what is shown and how to read it, in a few sentences.
        data: every number behind the figures, JSON-serialisable.
        figures: the pictures.
        table: the most telling numbers.
    """

    title: str
    markdown: str
    data: Mapping[str, Any]
    figures: tuple[Figure, ...] = attrs.field(default=(), converter=as_tuple)
    table: Table | None = None

    def section(self, title: str | None = None) -> ReportSection:
        """Return the result as a section of a report."""
        parts = [self.markdown, *([] if self.table is None else [self.table.markdown()])]
        return ReportSection(title or self.title, "\n\n".join(parts), self.figures)


@attrs.frozen(eq=False)
class AnalysisContext:
    """What an analysis may read and do.

    Arguments:
        probe: readings of the pristine pair on one task.
        registry: for components an analysis chooses by name.
        seed: of transfers, resamples and permutations.
        split: whose tokens are looked at; nothing is fitted on it.
    """

    probe: Probe
    registry: Registry
    seed: int = 0
    split: str = "dev"

    @property
    def pair(self) -> ModelPair:
        """The two models."""
        return self.probe.pair

    def model(self, origin: Origin) -> LoadedModel:
        """Return one of the two models."""
        return self.pair.model(origin)

    def batches(self) -> Iterator[tuple[int, ...]]:
        """Yield the rows of the split, some at a time."""
        rows = range(len(self.probe.encoded(self.split).items))
        size = self.probe.settings.batch_size
        for start in rows[::size]:
            yield tuple(rows[start : start + size])

    def own_states(self, origin: Origin, blocks: Sequence[int]) -> StateReader:
        """Return a reader of one model's residual stream at its own tokens.

        Works for pairs whose tokenizers differ, because the two models are not compared.
        """
        from pktkit.probe.readers import StateReader

        if origin is Origin.TARGET or self.pair.tokenizers.same:
            return self.probe.states(self.split, blocks, origin=origin)
        encoded = self.probe.encoded(self.split, origin)
        return StateReader.of_model(self.model(origin), encoded, blocks)

    def present_states(self, blocks: Sequence[int], interface: Interface) -> StateReader:
        """Return a reader of the target as it is now, e.g. while it carries a transfer."""
        from pktkit.probe.readers import StateReader

        encoded = self.probe.encoded(self.split)
        return StateReader.of_model(self.pair.target, encoded, blocks, interface)

    def choice(self, kind: Kind, choice: Choice) -> Choice:
        """Fill a component's option `seed` with the run's seed where it is left open."""
        return seeded(self.registry, kind, choice, self.seed)

    def strategy(self, name: str) -> Strategy:
        """Return a strategy by its registered name, or from a recipe file (`.yaml`).

        Raises:
            UsageError: there is none, or it leaves the target as it is.
        """
        recipe = Path(name).suffix in (".yaml", ".yml")
        strategy = load_recipe(name) if recipe else self.registry.strategy(name)
        if strategy.injector is None:
            raise UsageError(f"strategy '{strategy.name}' leaves the target as it is.")
        return strategy

    @contextlib.contextmanager
    def transferred(self, strategy: Strategy) -> Iterator[Transferred]:
        """Let the target carry a transfer inside the context; it is rolled back bit for bit.

        Readings of the pristine target must have been opened before.

        Raises:
            PktkitError: what a stage raised, with strategy, stage and component named.
        """
        task = self.probe.task
        data = transfer_data(self.probe, budget_for(task, strategy), self.seed)
        journal = Journal(self.pair.target)
        try:
            with journal:
                yield run_transfer(
                    strategy, self.pair, self.probe, data, journal, self.registry, task=task.name
                )
        finally:
            journal.rollback()


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
