"""Tracing: who did what, in which order, how long, with which shapes; and where it went wrong."""

from __future__ import annotations

import re
import types

import attrs
import pytest
from click.testing import CliRunner
from tiny_transfers import data_for, pair_of, word_task

from pktkit.cli import main
from pktkit.components import Choice, Component, Strategy
from pktkit.discovery.plugins import PluginSelection, load_plugins
from pktkit.errors import PktkitError, StrategyError
from pktkit.hookspecs import hookimpl
from pktkit.journal import Journal
from pktkit.probe import Probe
from pktkit.registry import Registry
from pktkit.tracing import Trace, TraceEvent, at_block, block_of
from pktkit.transfer import run_transfer
from pktkit.values import Alignment, Interface, TargetStates

ORDER = ("match", "align", "inject")


@attrs.frozen
class NoOptions:
    pass


class FailsLater:
    """An aligner whose maps work on four tokens, as at the border, and not on others."""

    Options = NoOptions

    def __init__(self, options):
        pass

    def align(self, pair, layer_map, probe):
        def shrink(states):
            if len(states) != 4:
                raise ZeroDivisionError("too many")
            return states[:, :32]

        maps = {link.target: shrink for link in layer_map.links}
        return Alignment("later", layer_map, TargetStates(maps, layer_map, Interface.RESIDUAL))


class FailsAtBlock(FailsLater):
    """An aligner that says which block it is at."""

    def align(self, pair, layer_map, probe):
        for link in layer_map.links:
            with at_block(link.target, link.sources):
                if link.target == 1:
                    raise KeyError("a name of its own")


def given(**components):
    """Build a registry with the built-in plugins and aligners of this module."""
    module = types.ModuleType("given")
    parts = [Component(name, f"test_tracing:{path}") for name, path in components.items()]
    module.aligners = hookimpl(specname="pktkit_latent_aligners")(lambda: parts)
    return Registry(load_plugins(extra={"given": module}))


def run(strategy, registry):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    with Journal(pair.target) as journal:
        return run_transfer(strategy, pair, probe, data_for(probe), journal, registry, task="words")


def test_events_come_in_order_with_times_and_shapes():
    registry = Registry(load_plugins())
    events: list[TraceEvent] = []
    registry.plugins.trace = Trace(events.append)
    done = run(Strategy("s", Choice("depth"), Choice("truncate"), Choice("overwrite")), registry)
    stages = [event for event in events if event.action in ORDER]
    assert [event.action for event in stages] == list(ORDER)
    assert {event.cell for event in stages} == {"s on words, seed 5"}
    for event in stages:
        assert "of pktkit 0.1.0)" in event.who
        assert 0 < event.seconds <= done.seconds[event.action]
    match, align, inject = (event.result for event in stages)
    assert match == "depth: 0→0 1→1 3→2"
    assert "7 × [32]" in align and "6 × [16, 32]" in align
    assert re.search(r"0 steps, 0 tokens, 0 trainable, \d+ parameters changed", inject)


def test_shapes_of_states_and_low_rank_updates():
    registry = Registry(load_plugins())
    events: list[TraceEvent] = []
    registry.plugins.trace = Trace(events.append)
    run(Strategy("s", Choice("depth"), Choice("semantic"), Choice("all-blocks")), registry)
    run(Strategy("t", None, Choice("principal", {"rank": 2}), Choice("lora-start")), registry)
    aligned = [event.result for event in events if event.action == "align"]
    assert "states of blocks 0 1 2, [tokens, 48] → [tokens, 32]" in aligned[0]
    assert "low-rank updates" in aligned[1] and "[32, 2]·[2, 32]" in aligned[1]


def test_nothing_is_traced_unless_asked_for():
    trace = Trace()
    with trace.event("match", "nobody") as result:
        result.text = "lost"
    assert not trace.on


def test_a_failed_action_is_traced_with_its_error():
    events: list[TraceEvent] = []
    with pytest.raises(KeyError), Trace(events.append).event("hook", "somebody"):
        raise KeyError("x")
    assert events[0].error == "KeyError: 'x'"
    assert str(events[0]).endswith("somebody failed: KeyError: 'x'")


def test_loading_and_hooks_are_traced():
    events: list[TraceEvent] = []

    @hookimpl
    def pktkit_tasks():
        raise RuntimeError("no tasks today")

    module = types.ModuleType("given")
    module.pktkit_tasks = pktkit_tasks
    selection = PluginSelection(only=("naive",))
    Registry(load_plugins(selection, extra={"bad": module}, trace=Trace(events.append)))
    loads = [event.who for event in events if event.action == "load"]
    assert loads == ["plugin 'naive' (pktkit 0.1.0)", "plugin 'bad'"]
    hooks = [event for event in events if event.action == "hook"]
    assert hooks[0].who == "pktkit_latent_aligners of plugin 'naive' (pktkit 0.1.0)"
    [failed] = [event for event in hooks if event.error]
    assert failed.error == "RuntimeError: no tasks today"


def note_of(error):
    """Return the note on the exception that a plugin raised."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    [note] = cause.__notes__
    return note


def test_an_exception_says_where_it_was_raised():
    registry = given(strict="FailsAtBlock")
    with pytest.raises(StrategyError) as caught:
        run(Strategy("s", Choice("depth"), Choice("strict"), Choice("overwrite")), registry)
    assert str(caught.value) == (
        "strategy 's', align (strict from plugin given), block 1 → 1: KeyError: 'a name of its own'"
    )
    assert note_of(caught.value) == (
        "in strategy s, component strict from plugin given, stage align, block 1 → 1"
    )


def test_a_map_that_fails_while_the_target_trains_names_the_block():
    registry = given(later="FailsLater")
    with pytest.raises(StrategyError) as caught:
        run(Strategy("s", Choice("depth"), Choice("later"), Choice("all-blocks")), registry)
    note = note_of(caught.value)
    assert note.startswith("in strategy s, component all-blocks from pktkit 0.1.0, stage inject")
    assert note.endswith(", block 0 → 0")
    assert str(caught.value).endswith(", block 0 → 0: ZeroDivisionError: too many")


def test_the_innermost_block_counts():
    with pytest.raises(ValueError) as caught, at_block(3), at_block(1, (0, 2)):
        raise ValueError
    assert block_of(caught.value) == "block 0+2 → 1"
    assert block_of(RuntimeError()) == ""


def test_an_unknown_component_names_strategy_and_stage():
    with pytest.raises(PktkitError, match=r"strategy 's', match: unknown matcher 'dept'"):
        run(Strategy("s", Choice("dept")), Registry(load_plugins()))


@pytest.mark.parametrize("position", ["before", "after"])
def test_the_command_line_shows_a_trace_on_stderr(tmp_path, position):
    from pktkit.pair import save_model

    pair = pair_of("llama")
    save_model(pair.source, tmp_path / "source")
    save_model(pair.target, tmp_path / "target")
    rows = [f'{{"prompt": "t{i} t{i + 7}", "answer": " t{i + 2}"}}' for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    command = [
        "compare", "--strategies", "naive", "--no-controls", "--seeds", "1", "--jobs", "0",
        "--source", tmp_path / "source", "--target", tmp_path / "target",
        "--task", tmp_path / "rows.jsonl", "--out", tmp_path / "run",
    ]  # fmt: skip
    command.insert(0 if position == "before" else 1, "--trace-plugins")
    done = CliRunner().invoke(main, [str(part) for part in command])
    assert done.exit_code == 0, done.output
    assert "trace" not in done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("trace ")]
    actions = [line.split()[1] for line in lines]
    assert actions.index("load") < actions.index("hook") < actions.index("match")
    ours = [line for line in lines if ": " in line and "naive on " in line]
    assert [line.split()[1] for line in ours if line.split()[1] != "import"] == [
        *ORDER,
        "evaluate",
    ]
    assert all(re.match(r"trace  \w+ +\d+\.\d{3} s  ", line) for line in lines)
    assert '"trace"' not in (tmp_path / "run" / "cells.jsonl").read_text()
