"""Running one component: traced, kept from stdout, and named in whatever it raises."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from pktkit.components import Choice, Kind
from pktkit.errors import PktkitError, StrategyError
from pktkit.isolation import FAULTS, describe, reworded, stdout_to_stderr
from pktkit.memory import does_not_fit, is_out_of_memory
from pktkit.outcomes import CellKey, StageRecord
from pktkit.tracing import Result, place_of

if TYPE_CHECKING:
    from pktkit.journal import Journal
    from pktkit.registered import Registered
    from pktkit.registry import Registry

T = TypeVar("T")

MATCH, ALIGN, INJECT, EVALUATE = "match", "align", "inject", "evaluate"


@attrs.frozen(eq=False)
class Stages:
    """Runs the stages of one cell.

    Arguments:
        key: strategy, task and seed.
        registry: builds the components, and holds the plugins that observe.
        journal: checked after each stage, so that a change behind its back names its component;
            None where the target may not change at all and is not watched.
        seconds: receives the wall time of each stage.
    """

    key: CellKey
    registry: Registry
    journal: Journal | None = None
    seconds: dict[str, float] = attrs.field(factory=dict)

    def run(
        self,
        stage: str,
        kind: Kind,
        choice: Choice,
        call: Callable[[Any], T],
        *,
        shown: Callable[[T], str] = str,
    ) -> T:
        """Build a component, call it, and tell observers.

        Arguments:
            stage: one of the names above.
            kind, choice: the component; an open option `seed` gets the cell's.
            call: calls the built component and checks what it returned.
            shown: words the result for the trace, with shapes.

        Raises:
            PktkitError: what was raised, with strategy, stage, component and distribution named.
        """
        try:
            registered = self.registry.get(kind, choice.name)
        except PktkitError as error:
            raise reworded(error, f"strategy '{self.key.strategy}', {stage}: {error}") from error
        with self._guarded(stage, registered) as traced:
            built = self.registry.build(kind, seeded(self.registry, kind, choice, self.key.seed))
            value = call(built)
            if self.journal is not None:
                self.journal.verify()
            if self.registry.plugins.trace.on:
                traced.text = shown(value)
        return value

    def finished(self, stage: str, summary: str) -> None:
        """Tell the observers of `pktkit_stage_finished`."""
        record = StageRecord(self.key, stage, self.seconds[stage], summary)
        self.registry.plugins.notify("pktkit_stage_finished", record=record)

    @contextlib.contextmanager
    def _guarded(self, stage: str, registered: Registered) -> Iterator[Result]:
        """Time and trace a stage, and say where it was when something goes wrong."""
        trace = self.registry.plugins.trace
        trace.cell = f"{self.key.strategy} on {self.key.place}, seed {self.key.seed}"
        start = time.perf_counter()
        try:
            with stdout_to_stderr(), trace.event(stage, registered.label) as traced:
                yield traced
        except FAULTS as error:
            raise self._located(error, stage, registered) from error
        finally:
            trace.cell = ""
            self.seconds[stage] = time.perf_counter() - start

    def _located(self, error: BaseException, stage: str, registered: Registered) -> PktkitError:
        """Return the error with its place in front; the original gets the place as a note."""
        component = f"{registered.component.name} from {registered.provenance}"
        note = place_of(error, strategy=self.key.strategy, component=component, stage=stage)
        error.add_note(note)
        block = note.partition(f", stage {stage}")[2]
        where = f"strategy '{self.key.strategy}', {stage} ({component}){block}"
        if isinstance(error, PktkitError):
            return reworded(error, f"{where}: {error}")
        if is_out_of_memory(error):
            return does_not_fit(error, where)
        return StrategyError(f"{where}: {describe(error)}")


def seeded(registry: Registry, kind: Kind, choice: Choice, seed: int) -> Choice:
    """Fill a component's option `seed` with the run's seed where the recipe leaves it open."""
    fields = {
        field.name: field.default
        for field in attrs.fields(registry.options_class(kind, choice.name))
    }
    if "seed" in fields and choice.options.get("seed") is None:
        return attrs.evolve(choice, options={**choice.options, "seed": seed})
    return choice
