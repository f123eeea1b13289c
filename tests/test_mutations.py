"""Every law fails a component that breaks it: the laws are tested, not only the components."""

from __future__ import annotations

import broken_components
import pytest
from broken_components import BROKEN

import pktkit_latent
import pktkit_naive
from pktkit.components import Kind
from pktkit.discovery.plugins import PluginSelection, load_plugins
from pktkit.registry import Registry
from pktkit.testing import LAWS, LawViolation, Outcome, checks_for, run_checks

PAIRS = [(kind, name) for name, law in LAWS.items() for kind in law.kinds]
CASES = [(kind, law, broken) for (kind, law), found in BROKEN.items() for broken in found]


def named(case):
    return getattr(case, "__name__", getattr(case, "name", str(case)))


@pytest.fixture(scope="module")
def registry():
    plugins = {"a": pktkit_latent, "b": pktkit_naive, "c": broken_components}
    return Registry(load_plugins(PluginSelection(only=()), extra=plugins))


def check(kind, law, component, registry):
    (found,) = (c for c in checks_for(kind, component, registry=registry) if c.law.name == law)
    return found


@pytest.mark.parametrize(("kind", "law", "broken"), CASES, ids=named)
def test_the_law_catches_what_breaks_it(kind, law, broken, registry):
    with pytest.raises(LawViolation, match=r"^\w+ '[\w-]+': "):
        check(kind, law, broken, registry)()


def test_every_law_has_a_broken_component_for_every_kind_it_binds(capsys):
    table = {pair: [named(broken) for broken in BROKEN.get(pair, ())] for pair in PAIRS}
    with capsys.disabled():
        for (kind, law), broken in sorted(table.items(), key=lambda row: (row[0][1], row[0][0])):
            print(f"\n{law:24}{kind:12}{', '.join(broken)}", end="")
    assert [pair for pair, broken in table.items() if not broken] == []
    assert set(BROKEN) == set(PAIRS)


SOUND = {
    Kind.MATCHER: broken_components.Matcher,
    Kind.ALIGNER: broken_components.Aligner,
    Kind.INJECTOR: broken_components.Injector,
    Kind.EVALUATOR: broken_components.Judge,
}


@pytest.mark.parametrize("kind", SOUND, ids=str)
def test_what_the_broken_ones_are_made_of_is_sound(kind):
    outcomes = {result.outcome for result in run_checks(checks_for(kind, SOUND[kind]))}
    assert outcomes <= {Outcome.PASSED, Outcome.NOT_APPLICABLE}


@pytest.mark.real
def test_the_whole_table(registry, capsys):
    """Which laws each broken component breaks, the meant one among them."""
    with capsys.disabled():
        for kind, law, broken in CASES:
            results = run_checks(checks_for(kind, broken, registry=registry))
            failed = [result.law for result in results if result.outcome is Outcome.FAILED]
            print(f"\n{kind:12}{named(broken):22}{law:24}{', '.join(failed)}", end="")
            assert law in failed
