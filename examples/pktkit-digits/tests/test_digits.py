import json
from collections import Counter
from types import SimpleNamespace

import pktkit_digits
import pytest
from pktkit_digits.evaluator import NearNumber, NearNumberOptions, closeness, whole_number
from pktkit_digits.misses import columns, section
from pktkit_digits.task import task

from pktkit.components import Choice, Kind
from pktkit.discovery.plugins import load_plugins
from pktkit.errors import UsageError
from pktkit.outcomes import CellKey, CellResult, ComparisonRecord, ItemScore, StageRecord
from pktkit.registry import Registry
from pktkit.report.rundir import RunDirectory
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit.testing import tiny_loaded


@pytest.fixture(scope="module")
def registry():
    installed = load_plugins()
    if any(status.name == "digits" for status in installed.loaded):
        return Registry(installed)
    return Registry(load_plugins(extra={"digits": pktkit_digits}))


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), (" 07\n", 7), ("-3", -3), ("7.", None), ("7 7", None), ("", None), ("x", None)],
)
def test_what_counts_as_a_number(text, number):
    assert whole_number(text) == number


@pytest.mark.parametrize(
    ("prediction", "score"), [("5", 1), ("8", 2 / 3), ("14", 0), ("99", 0), ("five", 0)]
)
def test_closeness_by_hand(prediction, score):
    assert closeness(prediction, 5, span=9) == pytest.approx(score)


def words(answer):
    items = (Item("a", "t1 t2", answer), Item("b", "t3", answer))
    return Task(
        name="words",
        splits={"test": items},
        evaluator=Choice("near-number"),
        card=TaskCard(summary="", metric="closeness", splitting="none"),
        max_new_tokens=2,
    )


def test_every_item_is_scored_in_order():
    scores = NearNumber(NearNumberOptions()).evaluate(tiny_loaded("llama"), words("3"), "test")
    assert [score.item for score in scores] == ["a", "b"]
    assert all(0 <= score.score <= 1 for score in scores)


def test_a_gold_answer_without_number_is_refused_before_the_model_runs():
    with pytest.raises(UsageError, match=r"item 'a'.*exact-match"):
        NearNumber(NearNumberOptions()).evaluate(None, words("three"), "test")


def test_everything_is_registered_and_can_be_built(registry):
    given = registry.task("compose-near")
    assert given.items("test") == registry.task("compose").items("test")
    assert registry.build(Kind.EVALUATOR, given.evaluator).options.span == 9
    strategy = registry.strategy("steer-early")
    injector = registry.build(Kind.INJECTOR, strategy.injector)
    assert injector.options.schedule.at(0.0) > injector.options.schedule.at(0.25) > 0
    assert injector.options.schedule.at(0.6) == 0


def test_a_trail_is_written_only_where_one_is_asked_for(tmp_path, monkeypatch):
    record = StageRecord(CellKey("steer-early", "compose", 2), "align", 0.25, "semantic")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PKTKIT_TRAIL", raising=False)
    pktkit_digits.pktkit_stage_finished(record)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("PKTKIT_TRAIL", "trail.jsonl")
    pktkit_digits.pktkit_stage_finished(record)
    pktkit_digits.pktkit_stage_finished(record)
    lines = (tmp_path / "trail.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == 2 * [
        {
            "strategy": "steer-early",
            "task": "compose",
            "seed": 2,
            "point": "",
            "repeat": 0,
            "stage": "align",
            "seconds": 0.25,
            "summary": "semantic",
        }
    ]


def cell(strategy, predictions, seed=0):
    items = task().items("test")
    scores = [ItemScore(item.id, 0.0, text) for item, text in zip(items, predictions, strict=False)]
    return CellResult(CellKey(strategy, "compose-near", seed), scores=scores)


def test_answers_are_counted_by_distance():
    answers = {item.id: int(item.answer) for item in task().items("test")}
    golds = [int(item.answer) for item in task().items("test")[:5]]
    predictions = [str(golds[0]), str(golds[1] + 1), str(golds[2] - 2), str(golds[3] + 7), "max"]
    assert Counter(columns(cell("mine", predictions), answers)) == {
        "right": 1,
        "off by 1": 1,
        "off by 2": 1,
        "further off": 1,
        "no number": 1,
    }


def test_the_section_has_a_row_per_strategy_in_the_order_of_the_report(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    gold = task().items("test")[0].answer
    for done in (cell("mine", ["?"]), cell("target", [gold]), cell("mine", [gold], seed=1)):
        run.append_cell(done)
    order = [{"strategy": name} for name in ("target", "mine", "failed")]
    record = ComparisonRecord(
        str(run.path),
        {"plan": {"split": "test"}, "scores": {"compose-near": {"rows": order}}},
    )
    lines = section(record).markdown.splitlines()
    assert lines[-2:] == [
        "| target | 100.0 | 0.0 | 0.0 | 0.0 | 0.0 |",
        "| mine | 50.0 | 0.0 | 0.0 | 0.0 | 50.0 |",
    ]


def test_other_tasks_get_no_section():
    record = SimpleNamespace(results={"scores": {"compose": {}}})
    assert pktkit_digits.pktkit_report_sections(record) == []
