"""The hook reference is the hook specification, and the promise it makes is kept."""

import importlib.util
import inspect
import re
import types
import warnings
from pathlib import Path

import attrs
import pytest

from pktkit import hookspecs, outcomes, protocols
from pktkit.components import METHODS
from pktkit.discovery.plugins import BROKEN, OK, load_plugins

DOCS = Path(__file__).parent.parent / "docs"
HOOKS = [name for name in vars(hookspecs) if name.startswith("pktkit_")]


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate_hooks", DOCS / "generate_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference():
    return (DOCS / "hooks.md").read_text(encoding="utf-8")


def test_the_page_is_what_the_generator_writes(generator, reference):
    assert reference == generator.page(), "run `python docs/generate_hooks.py`"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_its_section_with_its_exact_signature(reference, hook):
    """Read from the function itself, not from the source that the generator reads."""
    function = getattr(hookspecs, hook)
    shown = str(inspect.signature(function)).replace("'", "")
    section = re.search(rf"### `{hook}`\n(.*?)(?=\n##)", reference, re.DOTALL)[1]
    assert f"def {hook}{shown}: ..." in section
    assert inspect.cleandoc(function.__doc__).splitlines()[0] in section


def test_no_hook_is_invented(reference):
    assert re.findall(r"^### `(\w+)`$", reference, re.MULTILINE) == HOOKS


def test_protocols_and_records_are_shown_whole(reference):
    joined = re.sub(r"\(\s+|\s+(?=\))", lambda found: found[0].strip(), reference)
    for name in ("LayerMatcher", "LatentAligner", "KnowledgeInjector", "Evaluator", "Analysis"):
        protocol = getattr(protocols, name)
        [method] = [m for m in vars(protocol) if not m.startswith("_") and m != "Options"]
        shown = str(inspect.signature(getattr(protocol, method))).replace("'", "")
        assert f"def {method}{shown}:" in joined
    for name in ("StageRecord", "CellKey", "ComparisonRecord", "ReportSection", "Figure"):
        body = reference.split(f"class {name}:")[1].split("```")[0]
        for field in attrs.fields(getattr(outcomes, name)):
            assert f"    {field.name}: " in body


def test_the_method_that_makes_a_component_is_that_of_its_protocol(generator):
    for kind, name in generator.PROTOCOLS.items():
        methods = [m for m in vars(getattr(protocols, name)) if not m.startswith("_")]
        assert [m for m in methods if m != "Options"] == [METHODS[kind]]
    assert set(METHODS) == set(generator.PROTOCOLS)


def test_public_modules_exist(generator):
    for name in generator.PUBLIC_MODULES:
        assert importlib.util.find_spec(name) is not None, name
        assert f"`{name}`" in generator.page()


def plugin(**attributes):
    module = types.ModuleType("given")
    vars(module).update(attributes)
    return module


def test_another_api_version_is_refused_with_both_numbers():
    newer = hookspecs.API_VERSION + 1
    status = load_plugins(extra={"given": plugin(PKTKIT_API=newer)}).status("given")
    assert status.state == BROKEN
    assert f"plugin API {newer}" in status.error
    assert f"offers {hookspecs.API_VERSION}" in status.error


def test_an_implementation_may_leave_arguments_out():
    seen = []

    @hookspecs.hookimpl
    def pktkit_stage_finished():
        seen.append(True)

    plugins = load_plugins(extra={"given": plugin(pktkit_stage_finished=pktkit_stage_finished)})
    assert plugins.status("given").state == OK
    plugins.notify("pktkit_stage_finished", record=None)
    assert seen == [True]


def deprecated_hook(monkeypatch, **deprecation):
    """Add a hook to the specifications that is going to leave."""

    @hookspecs.hookspec(**deprecation)
    def pktkit_old_name(record, colour):
        """Observe something."""

    pktkit_old_name.__module__ = hookspecs.__name__
    monkeypatch.setattr(hookspecs, "pktkit_old_name", pktkit_old_name, raising=False)


@pytest.mark.parametrize("what", ["hook", "argument"])
def test_what_is_deprecated_still_works_and_says_what_to_write(monkeypatch, what):
    notice = FutureWarning("write pktkit_stage_finished instead")
    if what == "hook":
        deprecated_hook(monkeypatch, warn_on_impl=notice)
    else:
        deprecated_hook(monkeypatch, warn_on_impl_args={"colour": notice})
    seen = []

    @hookspecs.hookimpl
    def pktkit_old_name(record, colour):
        seen.append((record, colour))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        plugins = load_plugins(extra={"given": plugin(pktkit_old_name=pktkit_old_name)})
    assert [str(w.message) for w in caught if w.category is FutureWarning] == [str(notice)]
    assert plugins.status("given").state == OK
    plugins.notify("pktkit_old_name", record=1, colour="red")
    assert seen == [(1, "red")]
