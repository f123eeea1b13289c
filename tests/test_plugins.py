"""Discovery: whatever is wrong with one plugin, the others go on and the message names it."""

import sys
import types

import pytest
from fake_distributions import BROKEN_BODIES, GOOD, install, install_plugin

from pktkit.components import Component
from pktkit.discovery.plugins import BLOCKED, BROKEN, OK, PluginSelection, load_plugins
from pktkit.hookspecs import hookimpl
from pktkit.registry import Registry


def only(*names):
    return PluginSelection(only=names)


def plugin(**attributes):
    module = types.ModuleType("given")
    vars(module).update(attributes)
    return module


def test_good_plugin_is_loaded_with_its_distribution(site):
    install_plugin(site, "good", GOOD)
    plugins = load_plugins(only("good"))
    status = plugins.status("good")
    assert (status.state, status.distribution, status.version) == (OK, "acme-good", "1.2")
    assert status.import_seconds > 0
    assert [c.name for _, cs in plugins.collect("pktkit_layer_matchers") for c in cs] == ["good"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("no-import", "ModuleNotFoundError: No module named 'a_module_that_does_not_exist'"),
        ("exits", "sys.exit(3)"),
        ("syntax", "SyntaxError"),
        ("misspelt", "Did you mean 'pktkit_layer_matchers'?"),
        ("signature", "everything"),
        ("unmarked", "lacks the decorator"),
        ("api", "plugin API 99"),
        ("raises", "pktkit_tasks failed: RuntimeError: two lines"),
        ("no-components", "must return Component descriptors, got 'text'"),
    ],
)
def test_broken_plugin_is_named_and_others_go_on(site, kind, expected):
    install_plugin(site, "bad", BROKEN_BODIES[kind])
    install_plugin(site, "good", GOOD)
    registry = Registry(load_plugins(only("bad", "good")))
    status = registry.plugins.status("bad")
    assert status.state == BROKEN
    assert expected in status.error
    assert registry.plugins.status("good").state == OK
    [warning] = registry.plugins.warnings()
    assert "plugin 'bad' (acme-bad 1.2)" in warning
    assert "\n" not in warning


def test_keyboard_interrupt_is_not_swallowed(site):
    install_plugin(site, "slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_plugins(only("slow"))


def test_broken_plugin_contributes_nothing(site):
    install_plugin(site, "half", GOOD + "\n@hookimpl\ndef pktkit_tasks():\n    1 / 0\n")
    assert list(Registry(load_plugins(only("half"))).entries()) == []


def test_one_entry_point_name_with_two_owners_names_both(site):
    install_plugin(site, "twin", GOOD, distribution="first")
    install_plugin(site, "twin", GOOD, distribution="second")
    found = [s for s in load_plugins(only("twin")).loaded if s.name == "twin"]
    assert [s.state for s in found] == [BROKEN, BROKEN]
    for status in found:
        assert "first 1.2" in status.error
        assert "second 1.2" in status.error


def test_malformed_metadata_hides_no_other_plugin(site):
    install(site, "garbled", "[pktkit]\nthis line has no value\n")
    install_plugin(site, "good", GOOD)
    plugins = load_plugins(PluginSelection(blocked=("latent", "seeking", "naive", "controls")))
    assert plugins.status("good").state == OK
    assert any(s.distribution == "garbled" and s.state == BROKEN for s in plugins.loaded)


def test_what_a_plugin_prints_goes_to_stderr(site, capsys):
    install_plugin(site, "loud", "print('hello')\n" + GOOD)
    load_plugins(only("loud"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err


def test_blocked_plugins_are_not_imported(site):
    module = install_plugin(site, "side", GOOD)
    plugins = load_plugins(PluginSelection(only=(), blocked=()))
    assert plugins.status("side").state == BLOCKED
    assert module not in sys.modules
    assert {s.state for s in plugins.loaded} == {BLOCKED}


@pytest.mark.parametrize(
    ("environ", "no_plugins", "allowed", "refused"),
    [
        ({}, None, "ab", ""),
        ({"PKTKIT_PLUGINS": ""}, None, "", "ab"),
        ({"PKTKIT_PLUGINS": "a"}, None, "a", "b"),
        ({"PKTKIT_PLUGINS": " a , b "}, "b", "a", "b"),
        ({}, "*", "", "ab"),
        ({}, "a", "b", "a"),
    ],
)
def test_selection(environ, no_plugins, allowed, refused):
    selection = PluginSelection.from_user(no_plugins, environ)
    assert all(selection.allows(name) for name in allowed)
    assert not any(selection.allows(name) for name in refused)


def test_misspelt_selection_gets_a_suggestion(site):
    install_plugin(site, "good", GOOD)
    [notice] = load_plugins(only("goood")).notices
    assert notice == "PKTKIT_PLUGINS names 'goood', which is not installed. Did you mean 'good'?"


def test_plugins_can_be_given_directly():
    @hookimpl
    def pktkit_tasks():
        return [Component("mine", "a:b")]

    plugins = load_plugins(only(), extra={"mine": plugin(pktkit_tasks=pktkit_tasks)})
    assert plugins.status("mine").state == OK


def test_one_object_under_two_names_is_refused():
    same = plugin()
    plugins = load_plugins(only(), extra={"one": same, "two": same})
    assert plugins.status("one").state == OK
    assert "same object as plugin 'one'" in plugins.status("two").error


def test_unhashable_object_is_refused():
    given = {"odd": types.SimpleNamespace(), "good": plugin()}
    plugins = load_plugins(only(), extra=given)
    assert "not hashable" in plugins.status("odd").error
    assert plugins.collect("pktkit_tasks") == []


def test_observers_are_guarded_one_by_one():
    seen = []

    @hookimpl(specname="pktkit_stage_finished")
    def fails(record):
        raise SystemExit(1)

    @hookimpl(specname="pktkit_stage_finished")
    def works(record):
        seen.append(record)

    plugins = load_plugins(only(), extra={"bad": plugin(f=fails), "good": plugin(w=works)})
    plugins.notify("pktkit_stage_finished", record="first")
    plugins.notify("pktkit_stage_finished", record="second")
    assert seen == ["first", "second"]
    assert plugins.status("bad").state == BROKEN


def test_hooks_imported_from_the_specification_are_no_implementations():
    from pktkit import hookspecs

    given = plugin(pktkit_tasks=hookspecs.pktkit_tasks)
    assert load_plugins(only(), extra={"given": given}).status("given").state == OK


def test_warnings_are_emitted_once(site):
    install_plugin(site, "bad", BROKEN_BODIES["exits"])
    plugins = load_plugins(only("bad"))
    lines = []
    plugins.emit_warnings(lines.append)
    plugins.emit_warnings(lines.append)
    assert len(lines) == 1
