"""The contract kit: every built-in component passes it, and results are data."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import attrs
import pytest

import pktkit.testing
from pktkit.capabilities import Capabilities, Saving, capabilities_of
from pktkit.components import Choice, Kind
from pktkit.errors import PluginError, UsageError
from pktkit.registry import Registry
from pktkit.testing import (
    LAWS,
    LAWS_VERSION,
    LawViolation,
    NotApplicable,
    Outcome,
    check_aligner,
    check_evaluator,
    check_injector,
    check_matcher,
    check_strategy,
    checks_for,
    parametrize_with_checks,
    run_checks,
)
from pktkit_latent.aligners import RidgeAligner
from pktkit_latent.matchers import DepthMatcher

DOCS = Path(__file__).parent.parent / "docs" / "contract-kit.md"
REGISTRY = Registry.discover()

NO_BASE = "the task vector needs the model that the source was trained from, option base"
NO_FILE = "reads a file that another aligner wrote; law saved-maps of those aligners covers it"
NO_ROWS = "scores rows of the harness only; tests/test_lm_eval.py has its laws"
SKIPPED = {"map-file": NO_FILE, "lm-eval": NO_ROWS}
FAST = {"hypernetwork": {"examples": 1, "align_rows": 2}}
"""Options that make a component faster without leaving out any of its code."""

WHOLE = ("naive", "latent", "seqkd")
"""Strategies that go through all laws by default: one that writes, one that trains, one with the
source's answers. What the others are made of does on its own; `-m real` takes them all."""


def expected_failures(kind, name):
    """What of a built-in component is known not to hold, and why."""
    if name not in ("task-vector", "naive-task-vector"):
        return {}
    reads_nothing = ("options-round-trip", "well-formed", "recipe-round-trip")
    needing_capability = [
        law.name
        for law in LAWS.values()
        if law.needs and not (kind is Kind.ALIGNER and capability(name, law.needs))
    ]
    harmless = ("degenerate-data", *reads_nothing, *needing_capability)
    return {
        law.name: NO_BASE for law in LAWS.values() if kind in law.kinds and law.name not in harmless
    }


def capability(name, needed):
    return capabilities_of(REGISTRY.get(Kind.ALIGNER, name).load()).declares(needed)


def built_in(kind, names=None):
    """Return a parametrisation over every law of every built-in component of a kind."""
    cases = []
    for name in names or REGISTRY.names(kind):
        if name in SKIPPED:
            continue
        found = checks_for(
            kind,
            name,
            registry=REGISTRY,
            options=FAST.get(name),
            expected_failures=expected_failures(kind, name),
        )
        cases += [pytest.param(check, id=check.id) for check in found if not check.not_applicable]
    return pytest.mark.parametrize("check", cases)


def broken(check):
    """Return why a law does not hold, or None; skips where it says nothing."""
    result = check.run()
    if result.outcome is Outcome.NOT_APPLICABLE:
        pytest.skip(result.reason)
    return None if result.ok else result.reason


@built_in(Kind.MATCHER)
def test_matchers(check):
    assert broken(check) is None


@built_in(Kind.ALIGNER)
def test_aligners(check):
    assert broken(check) is None


@built_in(Kind.INJECTOR)
def test_injectors(check):
    assert broken(check) is None


@built_in(Kind.EVALUATOR)
def test_evaluators(check):
    assert broken(check) is None


@built_in(Kind.STRATEGY, WHOLE)
def test_strategies(check):
    assert broken(check) is None


def test_drawn_answers_do_not_depend_on_which_items_are_scored():
    drawn = {"samples": 2, "k": 2, "temperature": 1.5}
    checks = checks_for(Kind.EVALUATOR, "code-tests", registry=REGISTRY, options=drawn)
    (check,) = (check for check in checks if check.law.name == "items-alone")
    assert check.run().outcome is Outcome.PASSED


def test_every_strategy_is_well_formed():
    for name in REGISTRY.names(Kind.STRATEGY):
        for check in checks_for(Kind.STRATEGY, name, registry=REGISTRY):
            if check.law.name in ("well-formed", "recipe-round-trip"):
                check()


@pytest.mark.real
@built_in(Kind.STRATEGY)
def test_all_strategies(check):
    assert broken(check) is None


@pytest.mark.real
@pytest.mark.parametrize("kind", [Kind.MATCHER, Kind.ALIGNER, Kind.INJECTOR, Kind.EVALUATOR])
def test_thoroughly(kind):
    for name in REGISTRY.names(kind):
        if name in SKIPPED:
            continue
        checks = checks_for(
            kind,
            name,
            registry=REGISTRY,
            expected_failures=expected_failures(kind, name),
            thorough=True,
        )
        failed = [result.to_row() for result in run_checks(checks) if not result.ok]
        assert failed == []


# --- checks and results ----------------------------------------------------------------------


class Wrong(DepthMatcher):
    """Claims a depth that the pair does not have."""

    capabilities = Capabilities(monotone=True)

    def match(self, pair, probe):
        found = super().match(pair, probe)
        return attrs.evolve(found, source_blocks=found.source_blocks + 1)


def results_of(**settings):
    return {
        result.law: result
        for result in run_checks(
            check
            for check in checks_for(Kind.MATCHER, Wrong, **settings)
            if check.law.name in ("in-range", "monotone", "self-transfer")
        )
    }


def test_results_are_data():
    results = results_of()
    assert {law: result.outcome for law, result in results.items()} == {
        "in-range": Outcome.FAILED,
        "monotone": Outcome.PASSED,
        "self-transfer": Outcome.NOT_APPLICABLE,
    }
    assert "of 5 source and 3 target blocks, the pair has 4 and 3" in results["in-range"].reason
    assert results["self-transfer"].reason == (
        "capability 'self_transfer_tolerance' is not declared"
    )
    row = json.loads(json.dumps(results["in-range"].to_row()))
    assert row["outcome"] == "failed" and row["kind"] == "matcher" and row["component"] == "Wrong"
    assert not results["in-range"].ok and results["monotone"].ok and results["self-transfer"].ok


def test_an_expected_failure_carries_its_reason_and_an_unexpected_pass_is_not_ok():
    results = results_of(expected_failures={"in-range": "because", "monotone": "why not"})
    assert results["in-range"].outcome is Outcome.EXPECTED_FAILURE and results["in-range"].ok
    assert results["in-range"].reason == "because"
    assert results["monotone"].outcome is Outcome.UNEXPECTED_PASS and not results["monotone"].ok
    assert "why not" in results["monotone"].reason


def test_a_check_raises_what_it_finds():
    checks = {check.law.name: check for check in checks_for(Kind.MATCHER, Wrong)}
    with pytest.raises(LawViolation, match="matcher 'Wrong'"):
        checks["in-range"]()
    with pytest.raises(NotApplicable):
        checks["rotation-equivariant"]()


def test_what_raises_something_else_fails_with_its_words():
    class Raising(DepthMatcher):
        def match(self, pair, probe):
            raise RuntimeError("not today")

    (result,) = run_checks(
        check for check in checks_for(Kind.MATCHER, Raising) if check.law.name == "in-range"
    )
    assert result.outcome is Outcome.FAILED and result.reason == "RuntimeError: not today"


def test_generators_yield_component_and_check():
    for generator, component in (
        (check_matcher, DepthMatcher),
        (check_aligner, RidgeAligner),
        (check_injector, "overwrite"),
        (check_evaluator, Choice("exact-match", {"extract": "last-number"})),
        (check_strategy, "naive"),
    ):
        found = list(generator(component))
        assert found and all(subject is check.component for subject, check in found)
        kind = found[0][1].component.kind
        assert [check.law.name for _, check in found] == [
            law.name for law in LAWS.values() if kind in law.kinds
        ]


def test_options_reach_the_component():
    (check, *_) = checks_for(Kind.ALIGNER, Choice("ridge", {"penalty": 0.5}), options={"seed": 4})
    assert check.component.options.penalty == 0.5 and check.component.options.seed == 4
    (check, *_) = checks_for(Kind.ALIGNER, RidgeAligner)
    assert check.component.options.seed == 0
    assert check.id == "RidgeAligner-options-round-trip"


def test_bad_requests_are_refused():
    with pytest.raises(UsageError, match=r"unknown law of kind 'matcher' 'monotne'\..*'monotone'"):
        list(checks_for(Kind.MATCHER, "depth", expected_failures={"monotne": ""}))
    with pytest.raises(UsageError, match="kind 'task' has no laws"):
        list(checks_for(Kind.TASK, "compose"))
    with pytest.raises(UsageError, match="takes no options"):
        list(checks_for(Kind.STRATEGY, "naive", options={"a": 1}))
    with pytest.raises(UsageError, match="unknown aligner 'rigde'"):
        list(checks_for(Kind.ALIGNER, "rigde"))
    with pytest.raises(UsageError, match="a strategy or its name"):
        list(checks_for(Kind.STRATEGY, RidgeAligner))
    with pytest.raises(PluginError, match="no class attribute 'Options'"):
        list(checks_for(Kind.MATCHER, dict))


@parametrize_with_checks(
    Kind.MATCHER, [Wrong], expected_failures={"in-range": "claims another depth"}
)
def test_under_pytest(component, check):
    assert component.name == "Wrong" and check.law.name in LAWS
    check()


def test_pytest_marks_expected_failures_and_leaves_out_what_is_not_declared():
    mark = parametrize_with_checks(
        Kind.MATCHER, [Wrong], expected_failures={"in-range": "claims another depth"}
    )
    cases = {case.id: case for case in mark.args[1]}
    assert "Wrong-monotone" in cases and "Wrong-self-transfer" not in cases
    (xfail,) = cases["Wrong-in-range"].marks
    assert xfail.kwargs == {"reason": "claims another depth", "strict": True}


# --- capabilities ----------------------------------------------------------------------------


def test_nothing_is_promised_by_default():
    class Silent:
        pass

    found = capabilities_of(Silent)
    assert not any(found.declares(field.name) for field in attrs.fields(Capabilities))
    assert Capabilities(self_transfer_tolerance=0.0, homogeneous=0).declares("homogeneous")
    assert Capabilities(self_transfer_tolerance=0.0).declares("self_transfer_tolerance")


def test_capabilities_are_checked():
    class Talkative:
        capabilities = "affine"

    with pytest.raises(PluginError, match=r"must be a pktkit\.capabilities\.Capabilities, got str"):
        capabilities_of(Talkative)
    with pytest.raises(ValueError):
        Capabilities(self_transfer_tolerance=-1.0)
    with pytest.raises(ValueError):
        Saving("save", "no colon", "path")


# --- the catalogue ---------------------------------------------------------------------------


def test_every_law_is_implemented_for_every_kind_it_binds_and_no_other():
    import importlib

    for kind in (Kind.MATCHER, Kind.ALIGNER, Kind.INJECTOR, Kind.EVALUATOR, Kind.STRATEGY):
        module = importlib.import_module(f"pktkit.testing.laws.{kind.value}")
        assert set(module.TESTS) == {law.name for law in LAWS.values() if kind in law.kinds}


def test_every_law_is_documented_and_names_an_existing_capability():
    fields = {field.name for field in attrs.fields(Capabilities)}
    for name, law in LAWS.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name) and name == law.name
        assert law.sentence.endswith(".") and law.sentence[0].isupper() and law.reference
        assert not law.needs or law.needs in fields


def test_references_into_the_repository_exist():
    root = DOCS.parent.parent
    for law in LAWS.values():
        path, _, section = law.reference.partition(", ")
        if not path.startswith(("docs/", "pktkit/", "CONTRIBUTING")):
            continue
        text = (root / path).read_text(encoding="utf-8")
        assert not section or section.lower() in text.lower(), law.reference


def test_the_table_in_the_docs_is_the_catalogue():
    rows = ["| law | demands | binds | needs | reference |", "|---|---|---|---|---|"]
    for law in LAWS.values():
        kinds = ", ".join(kind.value for kind in law.kinds)
        needs = f"`{law.needs}`" if law.needs else ""
        rows.append(f"| `{law.name}` | {law.sentence} | {kinds} | {needs} | {law.reference} |")
    text = DOCS.read_text(encoding="utf-8")
    assert "\n".join(rows) in text, "copy these rows:\n" + "\n".join(rows)
    assert f"`LAWS_VERSION` is {LAWS_VERSION}" in text
    for field in attrs.fields(Capabilities):
        assert f"`{field.name}`" in text


def test_without_hypothesis_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.delitem(sys.modules, "pktkit.testing.strategies", raising=False)
    monkeypatch.delattr(pktkit.testing, "strategies", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'pktkit\[testing\]'"):
        _ = pktkit.testing.states
    drawing = [c for c in checks_for(Kind.ALIGNER, RidgeAligner) if c.law.name == "finite"]
    with pytest.raises(UsageError, match="needs hypothesis, which is not installed"):
        run_checks(drawing)


def test_hypothesis_is_not_imported_with_the_kit():
    """Nor pytest: a plugin's own tool may run the kit without a test runner."""
    package = Path(pktkit.testing.__file__).parent
    lazy = {"strategies.py", "needs.py"}
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"^(?:import|from) (hypothesis|pytest)\b", text, re.MULTILINE)
        assert not found or path.name in lazy, path
