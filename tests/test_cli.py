"""The command line as users meet it: fast help, documented exit codes, never a traceback."""

import json
import os
import resource
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from fake_distributions import BROKEN_BODIES, GOOD, install, install_plugin

from pktkit import errors
from pktkit.cli import COMMANDS, main
from pktkit.cli.group import LazyCommand, PktkitGroup
from pktkit.tables import table

HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "evaluate",
    "scipy",
    "peft",
    "structlog",
    "matplotlib",
    "pluggy",
)
PROBE = """
import sys
from pktkit.cli import main
try:
    main({arguments!r}, prog_name="pktkit")
finally:
    print("HEAVY", sorted(set({heavy!r}) & set(sys.modules)), file=sys.stderr)
"""


def run(*arguments, **environment):
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pktkit", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def heavy_imports(*arguments, heavy=HEAVY):
    """Return which heavy modules a command has imported by its end."""
    code = PROBE.format(arguments=list(arguments), heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return done.stderr.split("HEAVY ")[1].strip()


@pytest.fixture
def runner():
    return CliRunner()


def test_help_imports_nothing_heavy_and_documents_exit_codes():
    assert heavy_imports("--help") == "[]"
    done = run("--help")
    assert done.returncode == 0
    for code in (0, 1, 2, 3, 4, 70, 130):
        assert f"\n    {code} " in done.stdout
    for command in COMMANDS:
        assert f"  {command.name} " in done.stdout


def test_help_is_fast():
    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time, and the least of several: our imports count, the machine's load does not.
    assert min(seconds() for _ in range(3)) < 0.6


def test_listing_plugins_imports_no_models():
    heavy = [name for name in HEAVY if name not in ("structlog", "pluggy")]
    assert heavy_imports("plugins", "list", heavy=heavy) == "[]"
    assert heavy_imports("analyze", "--help", heavy=heavy) == "[]"


def test_version(runner):
    assert runner.invoke(main, ["--version"]).output.startswith("pktkit, version ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compar"], "No such command 'compar'. Did you mean 'compare'?"),
        (["--no-such-option"], "No such option"),
        (["-v", "-q", "plugins", "list"], "exclude each other"),
        (["inspect", "only-one"], "give both SOURCE and TARGET"),
        (["plugins", "list", "--format"], "No such option"),
        (["zoo", "build"], "Missing option '--out'"),
    ],
)
def test_wrong_usage_ends_with_2(runner, arguments, message):
    done = runner.invoke(main, arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def group(error=None, result=None):
    """Return a group whose command `do` raises or returns."""

    @click.group(cls=PktkitGroup)
    def commands():
        pass

    @commands.command()
    def do():
        if error is not None:
            raise error
        return result

    return commands


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (errors.UsageError("bad name"), 2, "error: bad name\n"),
        (errors.PluginError("bad plugin"), 2, "error: bad plugin\n"),
        (errors.StrategyError("it failed"), 1, "error: it failed\n"),
        (errors.PairIncompatibleError("no"), 3, "error: no\n"),
        (errors.DoesNotFitError("too large"), 4, "error: too large\n"),
        (click.UsageError("of click"), 2, "Error: of click"),
        (RuntimeError("two\nlines"), 70, "internal error: RuntimeError: two lines; set PKTKIT_"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (SystemExit(5), 5, ""),
    ],
)
def test_exit_codes(runner, error, code, message):
    done = runner.invoke(group(error), ["do"])
    assert done.exit_code == code
    assert message in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1), ("text", 0)])
def test_a_number_returned_by_a_command_is_its_exit_code(runner, result, code):
    assert runner.invoke(group(result=result), ["do"]).exit_code == code


def test_traceback_on_request(runner):
    done = runner.invoke(group(errors.UsageError("x")), ["do"], env={"PKTKIT_TRACEBACK": "1"})
    assert done.exit_code == 2
    assert "Traceback" in done.stderr


def test_every_command_can_be_imported(runner):
    for command in COMMANDS:
        if command.name in ("analyze", "inspect", "plan", "plugins", "zoo"):
            assert isinstance(command.load(), click.Command)
            assert runner.invoke(main, [command.name, "--help"]).exit_code == 0


def test_a_command_that_cannot_be_imported_hurts_only_itself(runner):
    lazy = [LazyCommand("gone", "a_module_that_does_not_exist:x", "Gone.")]
    commands = PktkitGroup("pktkit", commands_by_path=lazy)
    assert runner.invoke(commands, ["--help"]).exit_code == 0
    assert runner.invoke(commands, ["gone"]).exit_code == 70


@pytest.mark.parametrize(
    ("arguments", "environment", "loaded"),
    [
        ([], {}, {"a", "b"}),
        (["--no-plugins"], {}, set()),
        (["-q", "--no-plugins"], {}, set()),
        (["--no-plugins=a"], {}, {"b"}),
        (["--no-plugins=a,b"], {}, set()),
        ([], {"PKTKIT_PLUGINS": ""}, set()),
        ([], {"PKTKIT_PLUGINS": "b"}, {"b"}),
    ],
)
def test_plugins_can_be_switched_off(runner, tmp_path, monkeypatch, arguments, environment, loaded):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("a", "b"):
        install_plugin(tmp_path, name, GOOD)
    done = runner.invoke(main, [*arguments, "plugins", "list", "--json"], env=environment)
    data = json.loads(done.stdout)
    assert {p["name"] for p in data["plugins"] if p["state"] == "ok"} & {"a", "b"} == loaded


def test_plugins_list_works_with_every_plugin_broken(tmp_path):
    for name, body in BROKEN_BODIES.items():
        install_plugin(tmp_path, name, "print('printed at import')\n" + body)
    install_plugin(tmp_path, "twin", GOOD, distribution="first")
    install_plugin(tmp_path, "twin", GOOD, distribution="second")
    install(tmp_path, "garbled", "[pktkit]\nthis line has no value\n")
    names = [*BROKEN_BODIES, "twin"]
    environment = {"PYTHONPATH": str(tmp_path), "PKTKIT_PLUGINS": ",".join(names)}

    done = run("plugins", "list", "--json", **environment)
    assert done.returncode == 0
    data = json.loads(done.stdout)
    states = {p["name"]: p["state"] for p in data["plugins"] if p["name"] in names}
    assert states == dict.fromkeys(names, "broken")
    assert data["components"] == []
    assert "printed at import" in done.stderr

    done = run("plugins", "list", **environment)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    for name in BROKEN_BODIES:
        assert f"acme-{name}" in done.stdout
    assert "Did you mean 'pktkit_layer_matchers'?" in done.stdout
    assert run("--help", **environment).returncode == 0


def test_plugins_list_shows_clashes_and_misspelt_selections(runner, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("a", "b"):
        install_plugin(tmp_path, name, GOOD.replace("{name}", "same"))
    done = runner.invoke(main, ["plugins", "list"], env={"PKTKIT_PLUGINS": "a,b,aa"})
    assert done.exit_code == 0
    assert done.stdout.count("clash") == 2
    assert "note: the matcher name 'same' is claimed by a:" in done.stdout
    assert "note: PKTKIT_PLUGINS names 'aa', which is not installed." in done.stdout


def test_registry_warns_once_on_stderr(runner, tmp_path, monkeypatch):
    from pktkit.cli.context import AppContext

    monkeypatch.syspath_prepend(tmp_path)
    install_plugin(tmp_path, "bad", BROKEN_BODIES["exits"])

    @click.command()
    def use():
        app = AppContext()
        assert app.registry is app.registry

    done = runner.invoke(use, env={"PKTKIT_PLUGINS": "bad"})
    assert done.exit_code == 0
    assert done.stdout == ""
    assert done.stderr.count("plugin 'bad' (acme-bad 1.2) is broken") == 1


def test_zoo_build_refuses_a_directory_in_use(runner, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = runner.invoke(main, ["zoo", "build", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "is not empty" in done.stderr


def test_zoo_info_prints_scores(runner, monkeypatch):
    import pktkit.zoo

    scores = {"dev": {"arith": 91.25, "facts": 12.0}}
    record = {"models": {"source": {"scores": scores}, "target": {"scores": scores}}}
    monkeypatch.setattr(pktkit.zoo, "provenance", lambda: record)
    done = runner.invoke(main, ["zoo", "info"])
    assert done.exit_code == 0
    assert "model   split  arith  facts" in done.stdout
    assert "target  dev     91.2   12.0" in done.stdout
    assert json.loads(runner.invoke(main, ["zoo", "info", "--json"]).stdout) == record


def test_tables_align_words_left_and_numbers_right():
    text = table(["name", "n", "share"], [["é", 1000, 0.5], ["longer", 5, 10.0]])
    assert text.splitlines() == [
        "name        n  share",
        "é       1,000    0.5",
        "longer      5   10.0",
    ]
    assert table(["a", "b"], []) == "a  b"
