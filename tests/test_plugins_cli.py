"""`pktkit plugins`: what is listed, explained, checked, examined and begun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib

import pytest
from click.testing import CliRunner
from fake_distributions import HEADER, install, install_plugin

from pktkit.cli import main
from pktkit.components import Kind
from pktkit.discovery import doctor
from pktkit.discovery.doctor import Severity, examine, heavy_imports
from pktkit.discovery.plugins import PluginSelection, load_plugins
from pktkit.discovery.scaffold import FILES, render, require_free, write
from pktkit.errors import UsageError
from pktkit.registry import Registry
from pktkit.testing import LAWS

PARTS = '''
import attrs
from pktkit.capabilities import Capabilities
from pktkit.options import option
from pktkit.values import LayerLink, LayerMap

@attrs.frozen
class Options:
    offset: int = option(0, "Added to every source block.")
    mode: str = option("near", "Which way to round.", choices=("near", "far"))

class Matcher:
    """Links every target block to a source block."""
    Options = Options
    capabilities = Capabilities(monotone=True, item_order_invariant=True)

    def __init__(self, options):
        self.options = options

    def match(self, pair, probe):
        depth = pair.source.anatomy.n_blocks
        links = [
            LayerLink(i, [min(i + self.options.offset, depth - 1)])
            for i in range(pair.target.anatomy.n_blocks)
        ]
        return LayerMap(links, depth, pair.target.anatomy.n_blocks, "mine")

class Reversed(Matcher):
    """Promises what it does not keep."""
    def match(self, pair, probe):
        depth = pair.source.anatomy.n_blocks
        count = pair.target.anatomy.n_blocks
        links = [LayerLink(i, [max(depth - 1 - i, 0)]) for i in range(count)]
        return LayerMap(links, depth, count, "reversed")
'''
HOOKS = (
    HEADER
    + """
PKTKIT_API = 1

@hookimpl
def pktkit_layer_matchers():
    return [
        Component("mine", "{module}_parts:Matcher", "one after the other", "arXiv 1234.56789"),
        Component("reversed", "{module}_parts:Reversed"),
        Component("gone", "{module}_parts:Nothing"),
    ]
"""
)


@pytest.fixture
def mine(site):
    module = install_plugin(site, "mine", HOOKS)
    (site / f"{module}_parts.py").write_text(PARTS)
    return module


def invoke(*arguments):
    return CliRunner().invoke(main, ["plugins", *map(str, arguments)])


def test_list_shows_every_fact(mine):
    lines = invoke("list").stdout.splitlines()
    header = lines[0].split()
    assert header[:3] == ["kind", "name", "plugin"]
    assert header[-4:] == ["state", "import", "s", "summary"]
    [line] = [line for line in lines if line.startswith("matcher    mine ")]
    fields = line.split()
    assert fields[:7] == ["matcher", "mine", "mine", "acme-mine", "1.2", "1", "ok"]
    assert float(fields[7]) > 0
    [row] = [
        row
        for row in json.loads(invoke("list", "--json").stdout)["components"]
        if row["name"] == "mine"
    ]
    assert row["import_seconds"] > 0
    assert (row["api"], row["paper"]) == (1, "arXiv 1234.56789")


def test_info_of_a_component(mine):
    text = invoke("info", "mine", "--kind", "matcher").stdout
    assert "acme-mine 1.2" in text
    assert "arXiv 1234.56789" in text
    assert "item_order_invariant, monotone" in text
    assert "offset  int   0                   Added to every source block." in text
    assert "mode    str   near     near, far  Which way to round." in text
    data = json.loads(invoke("info", "mine", "--json").stdout)
    assert [each["what"] for each in data["components"]] == ["matcher mine"]
    [plugin] = data["plugins"]
    assert plugin["components"] == ["matcher gone", "matcher mine", "matcher reversed"]


def test_info_of_what_cannot_be_loaded_says_so(mine):
    done = invoke("info", "gone")
    assert done.exit_code == 0
    assert "error" in done.stdout
    assert "has no attribute 'Nothing'" in done.stdout


def test_info_of_a_strategy_a_task_and_a_distribution():
    strategy = invoke("info", "latent", "--kind", "strategy").stdout
    assert "matcher         depth" in strategy
    task = invoke("info", "compose").stdout
    assert "evaluator       exact-match" in task
    assert "train=" in task
    assert "plugin naive" in invoke("info", "pktkit").stdout
    assert "used by         latent-ridge" in invoke("info", "ridge").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["info", "mien"],
            "unknown component, plugin or distribution 'mien'. Did you mean 'mine'?",
        ),
        (["info", "mine", "--kind", "aligner"], "unknown aligner 'mine'"),
        (["check", "mien"], "Did you mean 'mine'?"),
        (["check", "compose"], "'compose' is of a kind without laws"),
        (["check", "mine", "--kind", "matcher", "--set", "offset"], "must be OPTION=VALUE"),
        (["check", "acme-mine", "--set", "offset=1"], "--set needs one component"),
        (["check", "mine", "--kind", "matcher", "--set", "offzet=1"], "Did you mean 'offset'?"),
        (["new", "Mine"], "'Mine' cannot name a plugin"),
        (["new", "a--b"], "cannot name a plugin"),
        (["new", "pktkit-x"], "leave 'pktkit-' out of the name: x"),
        (["new", "mine"], "taken by plugin 'mine' (acme-mine 1.2)"),
        (["new", "ridge"], "taken by aligner 'ridge' (plugin latent of pktkit"),
    ],
)
def test_wrong_usage_is_one_message(mine, arguments, message):
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert done.stdout == ""


def test_check_runs_the_laws_and_ends_with_1_where_one_does_not_hold(mine):
    good = invoke("check", "mine", "--kind", "matcher", "--set", "offset=1")
    assert good.exit_code == 0, good.output
    assert "matcher 'mine' (plugin mine of acme-mine 1.2)" in good.stdout
    [line] = [line for line in good.stdout.splitlines() if line.startswith("monotone ")]
    assert line.split()[1] == "passed"
    assert LAWS["monotone"].sentence in line
    bad = invoke("check", "reversed", "--json")
    assert bad.exit_code == 1
    rows = {row["law"]: row for row in json.loads(bad.stdout)}
    assert {law for law, row in rows.items() if row["outcome"] == "failed"} == {"monotone"}
    assert rows["monotone"]["distribution"] == "acme-mine"
    table = invoke("check", "reversed").stdout
    assert "monotone: matcher 'Reversed': " in table


def test_check_of_a_broken_plugin_says_why(site):
    install_plugin(site, "bad", "import no_such_module")
    done = invoke("check", "bad")
    assert done.exit_code == 2
    assert "plugin 'bad' (acme-bad 1.2) is broken: ModuleNotFoundError" in done.stderr


def findings(*names):
    """Return what the doctor finds with only these plugins, by check."""
    registry = Registry(load_plugins(PluginSelection(only=names)))
    return {finding.check: finding for finding in examine(registry)}


def test_doctor_finds_components_that_cannot_be_loaded(mine):
    found = findings("mine")["component"]
    assert found.severity is Severity.ERROR
    assert (found.distribution, found.version) == ("acme-mine", "1.2")
    assert "matcher 'gone' (plugin mine of acme-mine 1.2)" in found.message


def test_doctor_finds_heavy_imports_and_names_the_plugin(site):
    fake = site / "matplotlib.py"  # heavy by its name; a real one would only make the test slow
    fake.write_text("")
    install_plugin(site, "heavy", HEADER + "import matplotlib\nPKTKIT_API = 1\n")
    install_plugin(site, "light", HEADER + "PKTKIT_API = 1\n")
    found = findings("heavy", "light")["heavy-import"]
    assert (found.plugin, found.severity) == ("heavy", Severity.WARNING)
    assert "importing it loads matplotlib" in found.message


def test_the_built_in_plugins_import_nothing_heavy():
    plugins = [s.value for s in load_plugins().loaded if s.distribution == "pktkit"]
    assert len(plugins) >= 7
    assert heavy_imports(plugins) == ()


def test_an_import_that_ends_the_process_is_a_finding(site):
    (site / "ends.py").write_text("import os\nos._exit(0)\n")
    assert heavy_imports(["ends"]) == ("nothing, and ends the process",)


def test_doctor_finds_functions_that_only_look_like_hooks(site):
    install_plugin(site, "typo", HEADER + "def pktkit_layer_matcher():\n    return []\n")
    found = findings("typo")
    assert "Did you mean 'pktkit_layer_matchers'?" in found["misspelt-hook"].message
    assert found["api"].severity is Severity.NOTE
    assert "PKTKIT_API = 1" in found["api"].message
    assert found["empty"].severity is Severity.NOTE


def test_doctor_finds_deprecated_hooks(mine):
    registry = Registry(load_plugins(PluginSelection(only=("mine",))))
    spec = registry.plugins.hook.pktkit_layer_matchers.spec
    spec.warn_on_impl = DeprecationWarning("use pktkit_matchers")
    [found] = [each for each in examine(registry) if each.check == "api"]
    assert (found.plugin, found.severity) == ("mine", Severity.WARNING)
    assert found.message == "'pktkit_layer_matchers' is deprecated: use pktkit_matchers"


def test_doctor_is_content_with_what_is_built_in(monkeypatch):
    monkeypatch.setattr(doctor, "heavy_imports", lambda modules: ())
    monkeypatch.setattr(doctor, "SLOW_SECONDS", 60.0)  # this machine may be busy
    registry = Registry(load_plugins(PluginSelection(only=BUILT_IN)))
    assert examine(registry) == []


BUILT_IN = ("latent", "seeking", "laten", "naive", "transplant", "controls", "benchmarks")


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A plugin written by `new`, installed in a directory of its own."""
    site = tmp_path_factory.mktemp("generated")
    done = invoke("new", "mean-match", "--out", site / "project")
    assert done.exit_code == 0, done.output
    project = tomllib.loads((site / "project" / "pyproject.toml").read_text())["project"]
    [(name, module)] = project["entry-points"]["pktkit"].items()
    install(site, project["name"], f"[pktkit]\n{name} = {module}\n", version=project["version"])
    return site


def run_in(site, *command):
    paths = [site, site / "project", os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=site / "project",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"},
        timeout=250,
    )


def test_the_tests_of_a_new_plugin_pass_as_generated(generated):
    done = run_in(generated, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout


def test_a_new_plugin_is_formatted_and_free_of_lint(generated):
    for arguments in (["check"], ["format", "--check"]):
        done = run_in(generated, "-m", "ruff", *arguments, "--no-cache", ".")
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_new_plugin_needs_this_pktkit_and_says_so(generated):
    import pktkit

    project = tomllib.loads((generated / "project" / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == [f"pktkit>={pktkit.__version__}"]
    workflow = (generated / "project" / ".github" / "workflows" / "tests.yml").read_text()
    assert "${{ matrix.python }}" in workflow


def test_a_name_of_any_shape_gives_a_module_that_can_be_imported():
    registry = Registry(load_plugins(PluginSelection(only=())))
    for name in ("x", "a1", "one-two-3"):
        files = render(name, registry)
        assert len(files) == len(FILES)
        for path, text in files.items():
            assert "$module" not in path + text and "$name" not in text
            if path.endswith(".py"):
                compile(text, path, "exec")


def test_a_directory_in_use_is_left_alone(tmp_path):
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "mine.txt").write_text("keep")
    file = tmp_path / "file"
    file.write_text("")
    for out in (occupied, file, file / "below"):
        done = invoke("new", "fresh", "--out", out)
        assert done.exit_code == 2
        assert str(out) in done.stderr.replace("\n", "")
    assert [path.name for path in occupied.iterdir()] == ["mine.txt"]
    with pytest.raises(UsageError, match="not an empty directory"):
        write({"a": ""}, occupied)


def test_templates_are_in_the_package():
    from importlib import resources

    present = {
        each.name
        for each in (resources.files("pktkit.discovery") / "templates" / "plugin").iterdir()
    }
    assert set(FILES) == {name for name in present if not name.startswith("__")}


def test_a_name_is_free_where_its_owner_is_of_another_kind():
    registry = Registry(load_plugins())
    assert "compose" in registry.names(Kind.TASK)
    require_free("compose", registry)
