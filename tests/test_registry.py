"""The registry: one component by name, never the last that claimed it."""

import types

import attrs
import pytest

from pktkit.components import Choice, Component, Kind, Strategy
from pktkit.discovery.plugins import PluginSelection, load_plugins
from pktkit.errors import PluginError, UsageError
from pktkit.hookspecs import hookimpl
from pktkit.options import option
from pktkit.recipe import dump_recipe
from pktkit.registry import HOOKS, Registry


class Depth:
    @attrs.frozen
    class Options:
        stride: int = option(1, "every how many blocks")

    def __init__(self, options):
        self.options = options

    def match(self, pair, probe):
        return None


class Moody(Depth):
    def __init__(self, options):
        raise RuntimeError("not today")


class NoMethod:
    Options = Depth.Options

    def __init__(self, options):
        pass


class NoOptions:
    def match(self, pair, probe):
        return None


PLAIN = Strategy("plain", matcher=Choice("depth"))
MISNAMED = Strategy("other")
NUMBER = 3


def component(name, attribute):
    return Component(name, f"{__name__}:{attribute}")


def registry(**plugins):
    """Build a registry from `plugin={kind: [components]}`."""
    modules = {}
    for name, kinds in plugins.items():
        modules[name] = types.ModuleType(name)
        for kind, components in kinds.items():
            hook = hookimpl(specname=HOOKS[kind])(lambda components=components: components)
            setattr(modules[name], kind, hook)
    return Registry(load_plugins(PluginSelection(only=()), extra=modules))


@pytest.fixture
def matchers():
    names = {"depth": "Depth", "moody": "Moody", "no-method": "NoMethod", "no-options": "NoOptions"}
    parts = [component(name, attribute) for name, attribute in names.items()]
    parts += [Component("gone", "a_module_that_does_not_exist:X")]
    return registry(mine={Kind.MATCHER: parts})


def test_build_converts_options(matchers):
    built = matchers.build(Kind.MATCHER, Choice("depth", {"stride": "2"}))
    assert isinstance(built, Depth)
    assert built.options.stride == 2


def test_names_and_entries(matchers):
    assert matchers.names(Kind.MATCHER) == ("depth", "gone", "moody", "no-method", "no-options")
    assert matchers.names(Kind.TASK) == ()
    assert {entry.plugin for entry in matchers.entries()} == {"mine"}


def test_unknown_name_is_guessed(matchers):
    with pytest.raises(UsageError, match=r"unknown matcher 'dept'. Did you mean 'depth'\?"):
        matchers.get(Kind.MATCHER, "dept")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("depth", {"stryde": 2}, "no option 'stryde'. Did you mean 'stride'? Options: stride=1"),
        ("depth", {"stride": "many"}, "stride must be a whole number, got 'many'"),
        ("moody", {}, "cannot be built: RuntimeError: not today"),
        ("no-method", {}, "has no method 'match'"),
        ("no-options", {}, "has no class attribute 'Options'"),
        ("gone", {}, "a_module_that_does_not_exist"),
    ],
)
def test_errors_name_component_and_plugin(matchers, name, options, expected):
    with pytest.raises(UsageError) as caught:
        matchers.build(Kind.MATCHER, Choice(name, options))
    assert expected in str(caught.value)
    assert f"matcher '{name}' (plugin mine)" in str(caught.value)


def test_a_name_claimed_twice_is_an_error_when_it_is_used():
    both = registry(
        one={Kind.MATCHER: [component("depth", "Depth")]},
        two={Kind.MATCHER: [component("depth", "Moody"), component("moody", "Moody")]},
    )
    assert both.get(Kind.MATCHER, "moody").plugin == "two"
    [clash] = both.clashes()
    with pytest.raises(PluginError) as caught:
        both.get(Kind.MATCHER, "depth")
    assert str(caught.value) == clash
    assert f"one:{__name__}:Depth" in clash
    assert f"two:{__name__}:Moody" in clash
    assert {both.state(e) for e in both.entries() if e.component.name == "depth"} == {"clash"}


def test_a_name_may_be_used_in_two_kinds():
    shared = registry(
        one={
            Kind.MATCHER: [component("depth", "Depth")],
            Kind.STRATEGY: [component("depth", "PLAIN")],
        }
    )
    assert shared.clashes() == []


def test_unknown_name_mentions_broken_plugins():
    broken = registry(good={Kind.MATCHER: []}, bad={Kind.TASK: ["not a component"]})
    with pytest.raises(UsageError, match="Broken plugins: plugin 'bad': pktkit_tasks failed"):
        broken.get(Kind.MATCHER, "depth")


def test_strategies_are_values_or_recipe_files(tmp_path, monkeypatch):
    path = tmp_path / "plain.yaml"
    path.write_text(dump_recipe(PLAIN))
    monkeypatch.setitem(globals(), "RECIPE", path)
    for attribute in ("PLAIN", "RECIPE"):
        found = registry(mine={Kind.STRATEGY: [component("plain", attribute)]})
        assert found.strategy("plain") == PLAIN
        assert found.build(Kind.STRATEGY, Choice("plain")) == PLAIN


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [("MISNAMED", "calls itself 'other'"), ("NUMBER", "is a int, expected a Strategy")],
)
def test_what_is_no_strategy_is_refused(attribute, expected):
    found = registry(mine={Kind.STRATEGY: [component("plain", attribute)]})
    with pytest.raises(PluginError, match=expected):
        found.strategy("plain")


def small_task():
    from pktkit.tasks.base import Task, TaskCard

    return Task("small", {}, Choice("exact"), TaskCard("none", "accuracy", "none"))


def test_tasks_are_made_by_functions():
    found = registry(mine={Kind.TASK: [component("small", "small_task"), component("n", "NUMBER")]})
    assert found.task("small").name == "small"
    with pytest.raises(PluginError, match="cannot be called"):
        found.task("n")
    with pytest.raises(UsageError, match="takes no options"):
        found.build(Kind.TASK, Choice("small", {"a": 1}))


def test_two_registries_share_nothing():
    one = registry(mine={Kind.MATCHER: [component("depth", "Depth")]})
    assert registry().names(Kind.MATCHER) == ()
    assert one.names(Kind.MATCHER) == ("depth",)
