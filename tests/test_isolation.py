"""The isolation matrix: whatever is wrong with one plugin, every command goes on and names it."""

from __future__ import annotations

import json
import sys

import attrs
import pytest
import torch
from click.testing import CliRunner
from fake_distributions import HEADER, install_plugin
from tiny_transfers import pair_of, same_bits, snapshot, word_task

from pktkit.cli import main
from pktkit.compare.cells import CellRunner
from pktkit.compare.plan import PairSpec, Plan
from pktkit.discovery.plugins import load_plugins
from pktkit.pair import save_model
from pktkit.registry import Registry

REGISTERS = """
@hookimpl
def pktkit_layer_matchers():
    return [Component({!r}, "pktkit_latent.matchers:DepthMatcher", "by depth")]
"""
GOOD_HOOK = HEADER + REGISTERS.format("{name}")


@attrs.frozen
class Fault:
    """A fault in a plugin's module.

    Arguments:
        body: the module.
        state: of the plugin, or of its component.
        says: what the message must contain, besides distribution and version.
        entry_point: its name.
        exit_code: of `pktkit plugins doctor`.
    """

    body: str
    state: str
    says: str
    entry_point: str = "faulty"
    exit_code: int = 1


FAULTS = {
    "import error": Fault("import no_such_module", "broken", "No module named 'no_such_module'"),
    "syntax error": Fault("def (", "broken", "SyntaxError"),
    "exception in a hook": Fault(
        HEADER + "@hookimpl\ndef pktkit_tasks():\n    raise KeyError('x')\n",
        "broken",
        "pktkit_tasks failed: KeyError: 'x'",
    ),
    "unprintable exception": Fault(
        HEADER
        + "class Odd(Exception):\n    def __str__(self):\n        return self.nothing\n"
        + "@hookimpl\ndef pktkit_tasks():\n    raise Odd\n",
        "broken",
        "pktkit_tasks failed: Odd",
    ),
    "SystemExit at import": Fault("raise SystemExit(3)", "broken", "sys.exit(3)"),
    "SystemExit in a hook": Fault(
        HEADER + "@hookimpl\ndef pktkit_strategies():\n    raise SystemExit\n",
        "broken",
        "pktkit_strategies failed: it called sys.exit(None)",
    ),
    "wrong signature": Fault(
        HEADER + "@hookimpl\ndef pktkit_tasks(everything):\n    return []\n",
        "broken",
        "everything",
    ),
    "misspelt hook": Fault(
        HEADER + "@hookimpl\ndef pktkit_layer_matcher():\n    return []\n",
        "broken",
        "unknown hook 'pktkit_layer_matcher'. Did you mean 'pktkit_layer_matchers'?",
    ),
    "hook without its decorator": Fault(
        "def pktkit_tasks():\n    return []\n", "broken", "'pktkit_tasks' lacks the decorator"
    ),
    "wrong API version": Fault("PKTKIT_API = 99\n", "broken", "plugin API 99"),
    "built-in component name": Fault(
        HEADER + REGISTERS.format("depth"),
        "shadowed",
        "--no-plugins=pktkit:latent",
        exit_code=0,
    ),
    "built-in entry-point name": Fault(
        GOOD_HOOK, "shadowed", "--no-plugins=pktkit:latent", entry_point="latent", exit_code=0
    ),
    "built-in module": Fault("", "broken", "same object as plugin 'latent'", entry_point="a-first"),
    "slow import": Fault(
        "import time\ntime.sleep(0.6)\n" + GOOD_HOOK, "ok", "importing it took 0.", exit_code=0
    ),
    "prints at import": Fault("print('chatter')\n" + GOOD_HOOK, "ok", "", exit_code=0),
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    pair = pair_of("llama")
    rows = [  # scored by likelihood: what tiny models would generate never ends
        {"prompt": f"t{i} t{i + 7}", "answer": f" t{i + 2}", "choices": [f" t{i + 2}", f" t{i}"]}
        for i in range(30)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    save_model(pair.source, folder / "source")
    save_model(pair.target, folder / "target")
    return folder


def install_fault(site, fault):
    module = install_plugin(site, fault.entry_point, fault.body, distribution="acme-faulty")
    if fault.entry_point == "a-first":
        points = site / "acme-faulty-1.2.dist-info" / "entry_points.txt"
        points.write_text(points.read_text().replace(module, "pktkit_latent"))


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def compare(checkpoints, *arguments):
    return invoke(
        "compare", "--source", checkpoints / "source", "--target", checkpoints / "target",
        "--task", checkpoints / "rows.jsonl", "--no-controls", "--seeds", "1", "--jobs", "0",
        "--format", "json", "--set", "budget.steps=1", *arguments,
    )  # fmt: skip


@pytest.fixture
def loaded(runner, monkeypatch):
    """Comparisons get the pair that is loaded already."""
    monkeypatch.setattr(PairSpec, "load", lambda spec: runner.pair)


@pytest.fixture(params=FAULTS)
def fault(request, site):
    fault = FAULTS[request.param]
    install_fault(site, fault)
    return fault


def test_list_shows_it(fault):
    done = invoke("plugins", "list", "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    rows = [*data["plugins"], *data["components"]]
    ours = [row for row in rows if row["distribution"] == "acme-faulty"]
    assert {row["version"] for row in ours} == {"1.2"}
    assert fault.state in {row["state"] for row in ours}
    assert {"depth", "latent"} <= {row["name"] for row in rows if row["distribution"] == "pktkit"}
    built_in = [row["state"] for row in data["components"] if row["distribution"] == "pktkit"]
    assert built_in and set(built_in) == {"ok"}, "no built-in component is lost"
    table = invoke("plugins", "list")
    assert table.exit_code == 0
    assert "acme-faulty" in table.stdout
    if fault.state != "ok":
        assert fault.says in table.stdout
    assert "chatter" not in done.stdout + table.stdout


def test_info_explains_it(fault):
    done = invoke("plugins", "info", "acme-faulty")
    assert done.exit_code == 0, done.output
    assert "acme-faulty 1.2" in done.stdout
    assert "broken" not in done.stdout or fault.says in done.stdout
    builtin = invoke("plugins", "info", "depth", "--kind", "matcher")
    assert builtin.exit_code == 0
    assert "pktkit_latent.matchers:DepthMatcher" in builtin.stdout


def test_help_does_not_notice_it(fault):
    for arguments in (["--help"], ["plugins", "--help"], ["compare", "--help"]):
        assert invoke(*arguments).exit_code == 0


def test_doctor_finds_it(fault, monkeypatch):
    import pktkit.discovery.doctor

    monkeypatch.setattr(pktkit.discovery.doctor, "heavy_imports", lambda modules: ())
    done = invoke("plugins", "doctor", "--json")
    assert done.exit_code == fault.exit_code, done.output
    found = json.loads(done.stdout)["findings"]
    if fault.says:
        [ours] = [each for each in found if fault.says in each["message"]]
        named = f"{ours['distribution']} {ours['version']} {ours['message']}"
        assert "acme-faulty 1.2" in named
    assert {each["distribution"] for each in found} <= {"acme-faulty", ""}


def test_a_comparison_of_built_in_strategies_is_as_without_it(fault, checkpoints, loaded, tmp_path):
    done = compare(checkpoints, "--strategies", "naive", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    [scores] = json.loads(done.stdout)["scores"].values()
    rows = scores["rows"]
    assert [row["strategy"] for row in rows] == ["target", "source", "naive"]
    if fault.state != "ok":
        [warning] = [line for line in done.stderr.splitlines() if "level=warning" in line]
        assert "acme-faulty 1.2" in warning
        assert fault.says in warning
    else:
        assert "warning" not in done.stderr


def test_every_fault_at_once_in_a_process_of_its_own(site, tmp_path):
    """With every plugin at fault, and nothing of this test's process around."""
    import os
    import subprocess

    for number, fault in enumerate(FAULTS.values()):
        install_plugin(site, f"{fault.entry_point}-{number}", fault.body)
    environment = {**os.environ, "PYTHONPATH": f"{site}:{os.environ.get('PYTHONPATH', '')}"}
    for arguments, code in ((["--help"], 0), (["plugins", "list", "--json"], 0)):
        done = subprocess.run(
            [sys.executable, "-m", "pktkit", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
    states = [each["state"] for each in json.loads(done.stdout)["plugins"]]
    assert states.count("broken") == sum(f.state == "broken" for f in FAULTS.values()) - 1


def test_two_foreign_plugins_of_one_name_and_the_way_out(site):
    install_plugin(site, "twin", GOOD_HOOK, distribution="first")
    install_plugin(site, "twin", GOOD_HOOK, distribution="second")
    done = invoke("plugins", "list")
    assert "--no-plugins=second:twin" in done.stdout
    chosen = invoke("--no-plugins=second:twin", "plugins", "list", "--json")
    plugins = {p["distribution"]: p["state"] for p in json.loads(chosen.stdout)["plugins"]}
    assert (plugins["first"], plugins["second"]) == ("ok", "blocked")


def test_two_foreign_components_of_one_name_clash(site):
    for distribution in ("first", "second"):
        install_plugin(site, distribution, HEADER + REGISTERS.format("same"))
    done = invoke("plugins", "list", "--json")
    data = json.loads(done.stdout)
    assert [c["state"] for c in data["components"] if c["name"] == "same"] == ["clash"] * 2
    [clash] = data["clashes"]
    assert "acme-first 1.2" in clash and "acme-second 1.2" in clash
    assert invoke("plugins", "doctor").exit_code == 1


def test_a_shadowed_component_can_be_used_instead_of_the_built_in_one(site):
    body = FAULTS["built-in component name"].body
    install_plugin(site, "mine", body)
    from pktkit.discovery.plugins import PluginSelection

    default = Registry.discover()
    assert default.get("matcher", "depth").distribution == "pktkit"
    [sentence] = default.shadows()
    assert "matcher 'depth' (plugin mine of acme-mine 1.2) is shadowed" in sentence
    swapped = Registry.discover(PluginSelection.from_user("pktkit:latent", {}))
    assert swapped.get("matcher", "depth").distribution == "acme-mine"
    assert swapped.shadows() == []


# What goes wrong while a strategy runs.

COMPONENTS = """
import torch
from pktkit.discovery.plugins import PluginSelection
from pktkit.options import option
import attrs
from pktkit.state_maps import AffineMap
from pktkit.updates import *
from pktkit.values import *

@attrs.frozen
class Options:
    pass

class Base:
    Options = Options
    def __init__(self, options):
        pass

class Component(Base):
{body}
"""
ALIGN = """
    def align(self, pair, layer_map, probe):
        width = pair.source.anatomy.width, pair.target.anatomy.width
        return Alignment("bad", layer_map, {what})
"""
STATES = "TargetStates({{link.target: {map} for link in layer_map.links}}, layer_map, 'residual')"
UPDATE = "low_rank=[LowRankUpdate(1, {name}, torch.ones({b}), torch.ones({a}) * {scale})]"
MUTATES = "pair.target.model.model.norm.weight.data.mul_(2)"
SOURCE_WIDTH, TARGET_WIDTH = 48, 32

RUNTIME = {
    "matcher: other depths": (
        "matcher",
        "    def match(self, pair, probe):\n"
        "        return LayerMap([LayerLink(0, [0])], 4, 7, 'bad')\n",
        ["match (bad from acme-bad 1.2)", "a target of 7 blocks, 'target' has 3"],
    ),
    "matcher: NaN": (
        "matcher",
        "    def match(self, pair, probe):\n"
        "        return LayerMap([LayerLink(1, [0, 2], [float('nan'), 1])], 4, 3, 'bad')\n",
        ["match (bad from acme-bad 1.2), block 0+2 → 1: ", "hold nan at position 0"],
    ),
    "matcher: returns nothing": (
        "matcher",
        "    def match(self, pair, probe):\n        pass\n",
        ["it returned NoneType, expected LayerMap"],
    ),
    "matcher: wrong signature": (
        "matcher",
        "    def match(self, pair):\n        pass\n",
        ["match (bad from acme-bad 1.2): TypeError", "positional argument"],
    ),
    "matcher: SystemExit": (
        "matcher",
        "    def match(self, pair, probe):\n        raise SystemExit(4)\n",
        ["match (bad from acme-bad 1.2): it called sys.exit(4)"],
    ),
    "matcher: changes the target": (
        "matcher",
        f"    def match(self, pair, probe):\n        {MUTATES}\n"
        "        return LayerMap([LayerLink(0, [0])], 4, 3, 'bad')\n",
        ["match (bad from acme-bad 1.2): 'model.norm.weight' was changed behind the journal's"],
    ),
    "matcher: error class of its own": (
        "matcher",
        "    def match(self, pair, probe):\n"
        "        from pktkit.errors import UsageError\n"
        "        class Mine(UsageError):\n"
        "            def __init__(self, one, two):\n"
        "                super().__init__(f'{one}{two}')\n"
        "        raise Mine('my ', 'words')\n",
        ["match (bad from acme-bad 1.2): my words"],
    ),
    "aligner: NaN": (
        "aligner",
        ALIGN.format(what=STATES.format(map="lambda h: h[:, :32] * float('nan')")),
        [
            "align (bad from acme-bad 1.2), block 0 → 0: ",
            "[4, 32] for random states [4, 48]",
            "128 values",
        ],
    ),
    "aligner: wrong width": (
        "aligner",
        ALIGN.format(what=STATES.format(map="lambda h: h[:, :31]")),
        ["block 0 → 0: its map made states of shape [4, 31] out of [4, 48]", "[4, 32]"],
    ),
    "aligner: wrong dtype": (
        "aligner",
        ALIGN.format(what=STATES.format(map="lambda h: h[:, :32].double()")),
        ["torch.float64", "a map keeps dtype and device"],
    ),
    "aligner: map that raises": (
        "aligner",
        ALIGN.format(what=STATES.format(map="lambda h: h @ h")),
        ["align (bad from acme-bad 1.2), block 0 → 0: RuntimeError", "4x48"],
    ),
    "aligner: block that is not there": (
        "aligner",
        ALIGN.format(what="TargetStates({9: lambda h: h}, layer_map, 'residual')"),
        ["states for target block 9; 'target' has blocks 0..2"],
    ),
    "aligner: low-rank of another shape": (
        "aligner",
        ALIGN.format(what=UPDATE.format(name="'q'", b="(32, 2)", a="(3, 32)", scale=1)),
        ["low-rank update of 'q' in block 1 has b [32, 2] and a [3, 32]; expected [32, rank]"],
    ),
    "aligner: infinite low-rank": (
        "aligner",
        ALIGN.format(what=UPDATE.format(name="'q'", b="(32, 2)", a="(2, 32)", scale=1e60)),
        ["a [2, 32] of the low-rank update of 'q' in block 1 hold 64 values that are NaN"],
    ),
    "aligner: projection that is not there": (
        "aligner",
        ALIGN.format(what=UPDATE.format(name="'gat'", b="(32, 2)", a="(2, 32)", scale=1)),
        ["it updates 'gat' in block 1", "Did you mean 'gate'?"],
    ),
    "aligner: dense of another shape": (
        "aligner",
        ALIGN.format(what="dense=[DenseUpdate('model.norm.weight', torch.ones(31))]"),
        ["new value of parameter 'model.norm.weight' has shape [31], expected [32]"],
    ),
    "aligner: sparse outside": (
        "aligner",
        ALIGN.format(
            what="sparse=[SparseUpdate(0, 'up', 0, torch.tensor([48]), torch.ones(1, 32))]"
        ),
        ["sparse update of 'up' in block 0 names index 48", "0..47"],
    ),
    "injector: behind the journal's back": (
        "injector",
        "    def inject(self, target, alignment, data, journal):\n"
        "        target.model.model.norm.weight.data.mul_(2)\n"
        "        return Injection('bad')\n",
        ["inject (bad from acme-bad 1.2): 'model.norm.weight' was changed behind the journal's"],
    ),
    "injector: NaN": (
        "injector",
        "    def inject(self, target, alignment, data, journal):\n"
        "        journal.write('model.norm.weight', torch.full((32,), float('nan')))\n"
        "        return Injection('bad')\n",
        ["inject (bad from acme-bad 1.2): the new value of parameter 'model.norm.weight' is not"],
    ),
    "injector: prints and counts wrongly": (
        "injector",
        "    def inject(self, target, alignment, data, journal):\n"
        "        print('chatter')\n"
        "        return Injection('bad', steps=-1)\n",
        ["its 'steps' must be a whole number from 0, got -1"],
    ),
    "component module that cannot be imported": (
        "matcher",
        "    raise SystemExit(2)\n",
        ["cannot be imported from", "it called sys.exit(2)", "plugin bad of acme-bad 1.2"],
    ),
}


def install_strategy(site, kind, body):
    """Install a plugin with one component and a strategy that uses it; return its module."""
    hooks = {
        "matcher": "pktkit_layer_matchers",
        "aligner": "pktkit_latent_aligners",
        "injector": "pktkit_knowledge_injectors",
    }
    stages = {"matcher": "'depth'", "aligner": "'truncate'", "injector": "'overwrite'"}
    chosen = ", ".join(
        f"{stage}=Choice({name if stage != kind else repr('bad')})"
        for stage, name in stages.items()
    )
    module = install_plugin(
        site,
        "bad",
        HEADER.replace("import Component", "import Choice, Component, Strategy")
        + f"STRATEGY = Strategy('bad', {chosen})\n"
        + f"@hookimpl\ndef {hooks[kind]}():\n"
        + "    return [Component('bad', '{module}_parts:Component')]\n"
        + "@hookimpl\ndef pktkit_strategies():\n"
        + "    return [Component('bad', '{module}:STRATEGY')]\n",
    )
    (site / f"{module}_parts.py").write_text(COMPONENTS.replace("{body}", body))
    return module


@pytest.fixture(scope="session")
def runner(checkpoints):
    """A runner that tests give their registry, so that the pair is loaded once."""
    spec = PairSpec(str(checkpoints / "source"), str(checkpoints / "target"))
    runner = CellRunner(Plan(spec, (), ("words",), (0,)))
    task = attrs.evolve(word_task(6), budget={"steps": 1}, max_new_tokens=3)
    runner._tasks["words"] = task
    return runner


def run_with(runner, registry, *names):
    """Run strategies on the runner's pair; return their results by name."""
    runner.registry = registry
    runner.plan = attrs.evolve(runner.plan, strategies=[registry.strategy(n) for n in names])
    return {key.strategy: runner.run(key) for key in runner.plan.cells()}


@pytest.mark.parametrize("case", RUNTIME)
def test_a_misbehaving_component_is_a_row_with_its_name(case, site, runner, capsys):
    kind, body, expected = RUNTIME[case]
    install_strategy(site, kind, body)
    before = snapshot(runner.pair.target)
    results = run_with(runner, Registry(load_plugins()), "bad", "naive")
    assert results["bad"].error.startswith("strategy 'bad', "), results["bad"].error
    for part in expected:
        assert part in results["bad"].error
    assert not results["naive"].failed, results["naive"].error
    assert len(results["naive"].scores) == 6
    assert same_bits(runner.pair.target, before)
    assert "chatter" not in capsys.readouterr().out


EVALUATORS = {
    "too few": ("return scores[1:]", "it returned 5 scores for 6 items"),
    "other order": ("return scores[::-1]", "score 0 is of item 'i5', expected 'i0'"),
    "NaN": ("return [ItemScore(s.item, float('nan')) for s in scores]", "'i0' is nan"),
    "other type": ("return [1.0] * 6", "score 0 is float, expected ItemScore"),
    "not a sequence": ("return None", "it returned NoneType, expected item scores"),
    "changes the model": (
        "model.model.model.norm.weight.data.mul_(2); return scores",
        "'model.norm.weight' was changed behind the journal's back",
    ),
}


@pytest.mark.parametrize("case", EVALUATORS)
def test_a_misbehaving_evaluator_is_named(case, site, runner):
    does, expected = EVALUATORS[case]
    body = (
        "    def evaluate(self, model, task, split):\n"
        "        from pktkit.outcomes import ItemScore\n"
        "        scores = [ItemScore(item.id, 1.0) for item in task.items(split)]\n"
        f"        {does}\n"
    )
    module = install_plugin(
        site,
        "bad",
        HEADER + "@hookimpl\ndef pktkit_evaluators():\n"
        "    return [Component('bad', '{module}_parts:Component')]\n",
    )
    (site / f"{module}_parts.py").write_text(COMPONENTS.replace("{body}", body))
    before = snapshot(runner.pair.target), snapshot(runner.pair.source)
    usual = runner._tasks["words"]
    try:
        runner._tasks["words"] = attrs.evolve(
            usual, evaluator=attrs.evolve(usual.evaluator, name="bad")
        )
        results = run_with(runner, Registry(load_plugins()), "naive", "target", "source")
    finally:
        runner._tasks["words"] = usual
    for name, result in results.items():
        assert expected in result.error
        assert result.error.startswith(f"strategy '{name}', evaluate (bad from acme-bad 1.2)")
    assert same_bits(runner.pair.target, before[0])
    assert same_bits(runner.pair.source, before[1])


def test_a_failing_strategy_ends_a_comparison_with_1_and_the_rest_is_there(
    site, checkpoints, tmp_path
):
    install_strategy(site, *RUNTIME["aligner: wrong width"][:2])
    done = compare(checkpoints, "--strategies", "bad,naive", "--out", tmp_path / "run")
    assert done.exit_code == 1, done.output
    [scores] = json.loads(done.stdout)["scores"].values()
    rows = {row["strategy"]: row for row in scores["rows"]}
    assert rows["naive"]["mean"] is not None
    [failure] = rows["bad"]["failures"]
    assert "strategy 'bad', align (bad from acme-bad 1.2), block 0 → 0" in failure["reason"]


def test_the_check_of_a_map_leaves_random_numbers_alone(site, runner):
    draws = ALIGN.format(what=STATES.format(map="lambda h: h[:, :32] + torch.randn(len(h), 32)"))
    install_strategy(site, "aligner", draws)
    registry = Registry(load_plugins())
    from pktkit.components import Choice
    from pktkit.probe import Probe
    from pktkit.running.boundary import checked_alignment

    probe = Probe(runner.pair, runner._tasks["words"])
    layer_map = registry.build("matcher", Choice("depth")).match(runner.pair, probe)
    alignment = registry.build("aligner", Choice("bad")).align(runner.pair, layer_map, probe)
    before = torch.random.get_rng_state()
    assert checked_alignment(alignment, runner.pair) is alignment
    assert torch.equal(torch.random.get_rng_state(), before)


def test_updates_for_an_item_are_checked_when_they_are_made(site, runner):
    from pktkit.errors import StrategyError
    from pktkit.running.boundary import checked_alignment
    from pktkit.updates import SparseUpdate
    from pktkit.values import Alignment, LayerMap

    wrong = SparseUpdate(0, "up", 1, torch.tensor([0]), torch.ones(1, 9))
    given = Alignment("bad", LayerMap((), 4, 3, "none"), sparse_at=lambda item: [wrong])
    checked = checked_alignment(given, runner.pair)
    with pytest.raises(
        StrategyError, match=r"\[1, 9\], expected \[1, 48\]: 1 columns of \[48, 32\]"
    ):
        checked.sparse_at(None)
