"""The kit under pytest: one test per law."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pktkit.testing.checks import checks_for
from pktkit.testing.needs import needed

if TYPE_CHECKING:
    from pktkit.components import Choice, Kind, Strategy


def parametrize_with_checks(
    kind: Kind,
    components: Iterable[type | Strategy | Choice | str],
    *,
    expected_failures: Mapping[str, str] | None = None,
    **settings: Any,
) -> Any:
    """Return a pytest decorator that gives a test every `(component, check)` of some components.

        @parametrize_with_checks(Kind.ALIGNER, [MyAligner])
        def test_contract(component, check):
            check()

    Laws that need a capability which is not declared are left out. An expected failure is a
    strict `xfail`: the test fails when the law holds after all.

    Arguments:
        kind: of all the components.
        components: as `checks_for` takes them.
        expected_failures: reason by law; it is expected of every component given.
        settings: further arguments of `checks_for`.

    Raises:
        MissingExtra: pytest is not installed.
        UsageError, PluginError: as `checks_for`.
    """
    pytest = needed("pytest")
    cases = []
    for component in components:
        for check in checks_for(kind, component, expected_failures=expected_failures, **settings):
            if check.not_applicable:
                continue
            marks = []
            if check.expected_failure:
                marks.append(pytest.mark.xfail(reason=check.expected_failure, strict=True))
            cases.append(pytest.param(check.component, check, id=check.id, marks=marks))
    return pytest.mark.parametrize(("component", "check"), cases)
