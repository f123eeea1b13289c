"""The bridge to lm-evaluation-harness, on task files and rows of our own."""

from __future__ import annotations

import json
import random
from pathlib import Path

import attrs
import pytest

from pktkit.compare.plan import choose_task
from pktkit.components import Choice, Kind
from pktkit.errors import UsageError
from pktkit.registry import Registry
from pktkit.testing import tiny_loaded

pytest.importorskip("lm_eval")

TASK = """
task: toy
dataset_path: json
dataset_kwargs:
  data_files: {{train: {folder}/train.jsonl, test: {folder}/test.jsonl}}
output_type: multiple_choice
training_split: train
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
metadata: {{version: 2.0}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "toy.yaml").write_text(TASK.format(folder=tmp_path))
    for split, count in (("train", 30), ("test", 9)):
        rows = [
            {
                "question": f"t{i} t{7 * i % 50} t{len(split)}",
                "choices": ["t1", "t2 t3", "t4"],
                "answer": i % 3,
            }
            for i in range(count)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_item_scores_are_those_of_our_own_evaluator(folder: Path) -> None:
    registry, model = Registry.discover(), tiny_loaded("llama", blocks=2)
    task = choose_task(registry, f"lm-eval:toy@{folder}")
    assert (task.name, task.card.metric, task.protocol) == ("lm-eval", "acc", "toy, version 2.0")
    assert len(task.items("test")) == 9 and task.items("test")[4].answer == "t2 t3"
    assert sum(len(task.items(s)) for s in ("train", "align", "extract", "dev")) == 30
    assert str(folder) not in json.dumps(task.comparability("test"))
    evaluator = registry.build(Kind.EVALUATOR, task.evaluator)
    state, padding = random.getstate(), model.tokenizer.pad_token
    scores = evaluator.evaluate(model, task, "test")
    assert (random.getstate(), model.tokenizer.pad_token) == (state, padding)
    ours = registry.build(Kind.EVALUATOR, Choice("multiple-choice")).evaluate(model, task, "test")
    assert [(s.item, s.score, s.prediction) for s in scores] == [
        (s.item, s.score, s.prediction) for s in ours
    ]
    assert 0 < sum(score.score for score in scores) < 9

    some = attrs.evolve(task, splits={**task.splits, "test": task.items("test")[5:1:-2]})
    assert evaluator.evaluate(model, some, "test") == [scores[5], scores[3]]
    with pytest.raises(UsageError, match="only split 'test' is scored"):
        evaluator.evaluate(model, task, "dev")
    other = registry.build(
        Kind.EVALUATOR, Choice("lm-eval", {**task.evaluator.options, "metric": "f2"})
    )
    with pytest.raises(UsageError, match=r"has no metric 'f2'.* Known: acc, acc_norm"):
        other.evaluate(model, some, "test")


def test_rows_of_ones_own_and_refusals(folder: Path) -> None:
    registry = Registry.discover()
    rows = [{"prompt": f"say t{i}", "answer": f"t{i}"} for i in range(40)]
    (folder / "lessons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mixed.yaml").write_text(f"evaluate: lm-eval:toy@{folder}\nrows: lessons.jsonl\n")
    task = choose_task(registry, str(folder / "mixed.yaml"))
    assert {item.prompt for item in task.items("train")} <= {row["prompt"] for row in rows}
    assert task.evaluator.name == "lm-eval" and len(task.items("test")) == 9
    for reference, message in (
        ("lm-eval", "name a task of the harness, e.g. --task lm-eval:arc_easy"),
        (f"lm-eval:toy@{folder}/none", "does not exist"),
        (f"lm-eval:toy@{folder}?shots=-1", "shots"),
    ):
        with pytest.raises(UsageError, match=message):
            choose_task(registry, reference)
    (folder / "test.jsonl").unlink()
    with pytest.raises(UsageError, match="cannot load task 'toy'"):
        choose_task(registry, f"lm-eval:toy@{folder}")
