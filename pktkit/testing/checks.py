"""Checks: a law bound to a component, run one by one or all together, with results as data."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.components import Choice, Kind, Strategy
from pktkit.errors import unknown_name
from pktkit.testing.laws.catalogue import LAWS, Law
from pktkit.testing.subject import LawViolation, NotApplicable, Subject

if TYPE_CHECKING:
    from pktkit.registry import Registry
    from pktkit.tasks.base import Task

__all__ = ["Check", "CheckResult", "LawViolation", "NotApplicable", "Outcome", "Subject"]


class Outcome(enum.StrEnum):
    """What became of a check."""

    PASSED = "passed"
    FAILED = "failed"
    EXPECTED_FAILURE = "expected-failure"
    UNEXPECTED_PASS = "unexpected-pass"
    NOT_APPLICABLE = "not-applicable"


@attrs.frozen
class CheckResult:
    """The result of one check.

    Arguments:
        component: what was checked, by name.
        kind: what it is.
        law: name of the law.
        outcome: what became of it.
        reason: why it failed, why the failure was expected, or why the law does not bind; empty
            for a pass.
        seconds: wall time.
    """

    component: str
    kind: Kind
    law: str
    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong: neither a failure nor a pass that was expected to fail."""
        return self.outcome not in (Outcome.FAILED, Outcome.UNEXPECTED_PASS)

    def to_row(self) -> dict[str, Any]:
        """Return the result as JSON-serialisable values."""
        row = attrs.asdict(self)
        return row | {"kind": self.kind.value, "outcome": self.outcome.value}


@attrs.frozen
class Check:
    """One law, to be tested on one component. Call it: it raises where the law is broken.

    Arguments:
        component: what is tested, with its options.
        law: the law.
        expected_failure: why the law is known not to hold; empty where it must.
    """

    component: Subject
    law: Law
    expected_failure: str = ""

    @property
    def id(self) -> str:
        """`component-law`, for test ids."""
        return f"{self.component.name}-{self.law.name}"

    @property
    def not_applicable(self) -> str:
        """Why the law does not bind this component; empty if it does."""
        if not self.law.needs or self.component.capabilities.declares(self.law.needs):
            return ""
        return f"capability '{self.law.needs}' is not declared"

    def __call__(self) -> None:
        """Test the law.

        Raises:
            LawViolation: it does not hold.
            NotApplicable: it does not bind this component, or none of the kit's pairs suits it.
            MissingExtra: Hypothesis is not installed.
        """
        if self.not_applicable:
            raise NotApplicable(self.not_applicable)
        _test_of(self.component.kind, self.law)(self.component)

    def run(self) -> CheckResult:
        """Test the law and say what came of it; only a missing extra is raised."""
        from pktkit.testing.needs import MissingExtra

        start = time.perf_counter()
        outcome, reason = Outcome.PASSED, ""
        try:
            self()
        except NotApplicable as none:
            outcome, reason = Outcome.NOT_APPLICABLE, str(none)
        except MissingExtra:
            raise
        except Exception as error:
            outcome, reason = Outcome.FAILED, _worded(error)
        if self.expected_failure and outcome is Outcome.FAILED:
            outcome, reason = Outcome.EXPECTED_FAILURE, self.expected_failure
        elif self.expected_failure and outcome is Outcome.PASSED:
            outcome = Outcome.UNEXPECTED_PASS
            reason = f"expected to fail: {self.expected_failure}"
        return CheckResult(
            self.component.name,
            self.component.kind,
            self.law.name,
            outcome,
            reason,
            time.perf_counter() - start,
        )


def checks_for(
    kind: Kind,
    component: type | Strategy | Choice | str,
    *,
    options: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    registry: Registry | None = None,
    task: Task | None = None,
    thorough: bool = False,
) -> Iterator[Check]:
    """Yield one check per law that binds the kind, capability-gated ones included.

    Arguments:
        kind: matcher, aligner, injector, evaluator or strategy.
        component: the class; or a `Choice` or name to look up among the installed plugins. For a
            strategy, the `Strategy` or its name.
        options: by name, as in a recipe; added to those of a `Choice`.
        expected_failures: reason by name of a law that is known not to hold.
        registry: where names are looked up, and what a strategy is run with; default is what is
            installed.
        task: items to score, for an evaluator that needs a task of its own; its split `test`.
        thorough: more pairs and more examples, in minutes instead of seconds.

    Raises:
        UsageError: unknown component, options or law, or a kind without laws.
        PluginError: the component cannot be built.
    """
    expected = dict(expected_failures or {})
    bound = {name: law for name, law in LAWS.items() if kind in law.kinds}
    for name in expected:
        if name not in bound:
            raise unknown_name(f"law of kind '{kind}'", name, bound)
    subject = Subject.of(
        kind, component, options=options, registry=registry, task=task, thorough=thorough
    )
    for name, law in bound.items():
        yield Check(subject, law, expected.get(name, ""))


def run_checks(checks: Iterable[Check]) -> tuple[CheckResult, ...]:
    """Run checks one after another; a failed one is a result, and the others go on."""
    return tuple(check.run() for check in checks)


def check_matcher(
    component: type | Choice | str, **settings: Any
) -> Iterator[tuple[Subject, Check]]:
    """Yield (component, check) for a layer matcher; settings as in `checks_for`."""
    return _pairs(Kind.MATCHER, component, settings)


def check_aligner(
    component: type | Choice | str, **settings: Any
) -> Iterator[tuple[Subject, Check]]:
    """Yield (component, check) for a latent aligner; settings as in `checks_for`."""
    return _pairs(Kind.ALIGNER, component, settings)


def check_injector(
    component: type | Choice | str, **settings: Any
) -> Iterator[tuple[Subject, Check]]:
    """Yield (component, check) for a knowledge injector; settings as in `checks_for`."""
    return _pairs(Kind.INJECTOR, component, settings)


def check_evaluator(
    component: type | Choice | str, **settings: Any
) -> Iterator[tuple[Subject, Check]]:
    """Yield (component, check) for an evaluator; settings as in `checks_for`."""
    return _pairs(Kind.EVALUATOR, component, settings)


def check_strategy(
    component: Strategy | Choice | str, **settings: Any
) -> Iterator[tuple[Subject, Check]]:
    """Yield (component, check) for a strategy; settings as in `checks_for`."""
    return _pairs(Kind.STRATEGY, component, settings)


def _pairs(kind: Kind, component: Any, settings: Any) -> Iterator[tuple[Subject, Check]]:
    for check in checks_for(kind, component, **settings):
        yield check.component, check


def _test_of(kind: Kind, law: Law) -> Any:
    """Return the function that tests a law on one kind; it is imported here and not before."""
    import importlib

    module = importlib.import_module(f"pktkit.testing.laws.{kind.value}")
    return module.TESTS[law.name]


def _worded(error: Exception) -> str:
    if isinstance(error, LawViolation):
        return str(error)
    return f"{type(error).__name__}: {error}"
