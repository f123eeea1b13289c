"""Tasks from files: formats, splitting, and what is said about faulty files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pktkit.components import Choice
from pktkit.errors import UsageError
from pktkit.tasks.base import SPLITS, Task
from pktkit.tasks.jsonl import SHARES, load_task, resolve_task, split_of
from pktkit.tasks.jsonl_rows import is_numeric, normalised
from pktkit.tasks.reference import TaskReference, parse_reference

EXAMPLE = Path(__file__).parent.parent / "examples" / "gsm_rows.jsonl"


def gsm(count: int) -> list[dict[str, Any]]:
    return [
        {"question": f"What is {i} and one?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"}
        for i in range(count)
    ]


def plain(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"say {i}", "answer": f"word {'x' * (i % 3 + 1)}"} for i in range(count)]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def all_items(task: Task) -> list[Any]:
    return [item for split in SPLITS for item in task.items(split)]


def test_gsm_rows_keep_the_reasoning_and_score_the_last_number(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "sums.jsonl", gsm(120)))
    assert (task.name, task.template) == ("sums", "plain")
    assert task.evaluator.name == "exact-match"
    assert task.evaluator.options == {"extract": "last-number"}
    item = task.items("train")[0]
    assert item.answer.split("\n")[1].startswith("#### ")
    assert tuple(task.splits) == SPLITS and len(all_items(task)) == 120


def test_conversations_and_their_evaluators(tmp_path: Path) -> None:
    def talk(question: str, answer: str) -> dict[str, Any]:
        roles = zip(("user", "assistant"), (question, answer), strict=True)
        return {"messages": [{"role": role, "content": text} for role, text in roles]}

    sums = [talk(f"sum {i}", f"Answer: {i}+1. So the answer is {i + 1}.") for i in range(80)]
    task = load_task(write(tmp_path / "a.jsonl", sums))
    assert task.evaluator.options == {"extract": "last-number"}

    letters = [talk(f"pick {i}\nA. no\nB. yes\nAnswer:", "The answer is: B") for i in range(80)]
    task = load_task(write(tmp_path / "b.jsonl", letters))
    assert task.evaluator.name == "multiple-choice"
    assert task.items("test")[0].choices == ("The answer is: A", "The answer is: B")

    words = [talk(f"say {i}", "hello there") for i in range(80)]
    task = load_task(write(tmp_path / "c.jsonl", words))
    assert task.evaluator.options == {"extract": "all"}


def test_choices_call_for_likelihood(tmp_path: Path) -> None:
    rows = [{"prompt": f"p {i}", "answer": "a", "choices": ["a", "b"]} for i in range(80)]
    assert load_task(write(tmp_path / "r.jsonl", rows)).evaluator.name == "multiple-choice"
    del rows[40]["choices"]
    with pytest.raises(UsageError, match=r"line 41: field 'choices' is missing, but other rows"):
        load_task(write(tmp_path / "r.jsonl", rows))


def test_splitting_depends_on_the_prompt_alone(tmp_path: Path) -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    small = load_task(write(tmp_path / "r.jsonl", plain(100)))
    large = load_task(write(tmp_path / "r.jsonl", plain(200)[::-1]))
    for split in SPLITS:
        assert {i.id for i in small.items(split)} <= {i.id for i in large.items(split)}
        assert all(split_of(item.prompt.upper() + " ") == split for item in small.items(split))
    shares = {split: len(large.items(split)) / 200 for split in SPLITS}
    assert shares == pytest.approx(dict(SHARES), abs=0.1)


def test_rows_may_name_splits_and_ids(tmp_path: Path) -> None:
    rows = [row | {"split": SPLITS[i % 5], "id": i} for i, row in enumerate(plain(10))]
    task = load_task(write(tmp_path / "r.jsonl", rows))
    assert [item.id for item in task.items("dev")] == ["3", "8"]
    del rows[4]["split"]
    with pytest.raises(UsageError, match=r"line 5: field 'split' is missing"):
        load_task(write(tmp_path / "r.jsonl", rows))
    rows = [row | {"split": "train"} for row in plain(10)]
    with pytest.raises(UsageError, match=r"leave align and extract and dev and test empty"):
        load_task(write(tmp_path / "r.jsonl", rows))


def test_description(tmp_path: Path) -> None:
    for number, split in enumerate(SPLITS):
        write(tmp_path / f"{split}.jsonl", gsm(50)[number * 5 : number * 5 + 5])
    files = ", ".join(f"{split}: {split}.jsonl" for split in SPLITS)
    path = tmp_path / "task.yaml"
    path.write_text(
        f"rows: {{{files}}}\nname: five\ntemplate: tulu\nmax_new_tokens: 40\nsummary: Sums.\n"
        "evaluator: {name: exact-match, extract: first-number}\nbudget: {steps: 7}\n"
    )
    task = load_task(path)
    assert (task.name, task.template, task.max_new_tokens) == ("five", "tulu", 40)
    assert task.evaluator.options == {"extract": "first-number"}
    assert task.budget == {"steps": 7} and task.card.summary == "Sums."
    assert all(len(task.items(split)) == 5 for split in SPLITS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: r.jsonl\ntemplat: tulu", "unknown key 'templat'. Did you mean 'template'?"),
        ("rows: r.jsonl\ntemplate: tulip", "unknown template 'tulip'. Did you mean 'tulu'?"),
        ("name: x", "must be a mapping with 'rows'"),
        ("rows: 3", "key 'rows' has an unfitting value 3"),
        ("rows: {train: r.jsonl, tset: r.jsonl}", "Did you mean 'test'?"),
        ("rows: {train: r.jsonl, test: r.jsonl}", "the prompt is the same as at"),
        ("rows: r.jsonl\nmax_new_tokens: 0", "must be at least 1"),
        ("rows: r.jsonl\nevaluator: {extract: all}", "needs a 'name'"),
        ("rows: [", "is not YAML"),
        ("rows: s.jsonl", "s.jsonl does not exist. Did you mean 'r.jsonl'?"),
    ],
)
def test_faulty_descriptions(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "r.jsonl", gsm(60))
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_task(tmp_path / "task.yaml")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "line 2: expected a JSON object with fields, got a list of 1"),
        ({"prompt": "p", "anwser": "a"}, "'answer' is missing. Is 'anwser' meant to be 'answer'?"),
        ({"promt": "p", "answer": "a"}, "'prompt' is missing. Is 'promt' meant to be 'prompt'?"),
        ({"mesages": [], "id": 1}, "'messages' is missing. Is 'mesages' meant to be 'messages'?"),
        ({"qestion": "q", "answer": "1"}, "'question' is missing. Is 'qestion' meant to be"),
        ({}, "field 'prompt' is missing"),
        ({"prompt": 3, "answer": "a"}, "field 'prompt' must be a text, got 3"),
        ({"prompt": "p", "answer": " "}, "field 'answer' must be a text, got ' '"),
        ({"prompt": "p", "answer": "a", "choises": ["a"]}, "Did you mean 'choices'?"),
        ({"prompt": "p", "answer": "a", "choices": "ab"}, "'choices' must be a list of texts"),
        ({"prompt": "p", "answer": "a", "choices": ["a", "a"]}, "two or more different"),
        ({"prompt": "p", "answer": "c", "choices": ["a", "b"]}, "'c' is not among the choices"),
        ({"prompt": "p", "answer": "a", "split": "tets"}, "Did you mean 'test'?"),
        ({"prompt": "p", "answer": "a", "id": None}, "field 'id' must be a text or a number"),
        ({"prompt": "p", "answer": "a", "check": 1}, "field 'check' must be an object"),
        ({"question": "q", "answer": "12"}, "must end in '#### ' and a number"),
        ({"messages": []}, "one user and one assistant message, got []"),
        ({"messages": [{"role": "user"}, {"role": "assistant"}]}, "user message has no 'content'"),
        ({"prompt": "SAY  0", "answer": "a"}, "the prompt is the same as at"),
    ],
)
def test_faulty_rows(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path / "r.jsonl", [plain(1)[0], row, *plain(90)[1:]])
    with pytest.raises(UsageError) as caught:
        load_task(path)
    assert message in str(caught.value)
    assert f"{path}, line 2" in str(caught.value)


def test_faulty_files(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with pytest.raises(UsageError, match="does not exist"):
        load_task(path)
    path.write_text('{"prompt": "a", "answer": "b"}\n\nnot json\n')
    with pytest.raises(UsageError, match="line 3 is not JSON"):
        load_task(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        load_task(path)
    path.write_text("\n")
    with pytest.raises(UsageError, match="has no rows"):
        load_task(path)
    with pytest.raises(UsageError, match="rows are too few"):
        load_task(write(path, plain(4)))
    with pytest.raises(UsageError, match="cannot be read"):
        load_task(write_folder(tmp_path / "folder.jsonl"))
    with pytest.raises(UsageError, match="the id is the same as at"):
        load_task(write(path, [row | {"id": "x"} for row in plain(2)]))
    with pytest.raises(UsageError, match=r"must end in one of \.jsonl"):
        load_task(tmp_path / "rows.csv")


def write_folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_json_list(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(gsm(80)))
    assert len(all_items(load_task(path))) == 80
    path.write_text('{"rows": 1}')
    with pytest.raises(UsageError, match="must hold a list of rows"):
        load_task(path)
    write(path, gsm(3))
    with pytest.raises(UsageError, match=r"one row per line ends in \.jsonl"):
        load_task(path)


def test_resolving(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", gsm(80))
    named = load_task(path, name="arith", template="tulu")
    assert (named.name, named.template) == ("arith", "tulu")
    assert resolve_task("arith", ["arith"], lambda name: named) is named
    assert resolve_task(str(path), ["arith"], lambda name: named).name == "sums"
    with pytest.raises(UsageError, match=r"Did you mean 'arith'\?.*must end in"):
        resolve_task("arit", ["arith"], lambda name: named)


@pytest.mark.parametrize(
    ("answer", "numeric"),
    [
        ("24", True),
        ("-1,024.50", True),
        ("$7", True),
        ("so\n#### 24", True),
        ("So the answer is 24.", True),
        ("So the answer is $1,200.", True),
        ("the answer is 50%.", True),
        ("24 apples", False),
        ("The answer is: B", False),
        ("", False),
    ],
)
def test_numeric_answers(answer: str, numeric: bool) -> None:
    assert is_numeric(answer) is numeric


def test_normalised_prompts() -> None:
    assert normalised(" How\nMANY\u00a0eggs ") == "how many eggs"


def test_example_rows() -> None:
    task = load_task(EXAMPLE)
    items = all_items(task)
    assert len(items) == 120
    assert task.evaluator.options == {"extract": "last-number"}
    for item in items:
        claims = re.findall(r"(\d[\d *+/-]*) = (\d+)", item.answer)
        assert len(claims) >= 2
        assert all(eval(left) == int(right) for left, right in claims), item.answer
        assert item.answer.endswith(f"#### {claims[-1][1]}")


# Descriptions of rows with other columns, and of other tasks

CAPITALS = EXAMPLE.with_name("capitals.yaml")


def test_the_documented_description_is_the_example_and_can_be_scored() -> None:
    from pktkit.testing import tiny_loaded
    from pktkit_benchmarks.multiple_choice import MultipleChoice

    documented = (EXAMPLE.parent.parent / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert f"```yaml\n{CAPITALS.read_text(encoding='utf-8')}```" in documented
    task = load_task(CAPITALS)
    item = task.items("train")[0]
    assert item.prompt == "Which city is the capital of Norway?"
    assert item.answer == "Oslo" and item.choices == ("Bergen", "Oslo", "Tromsø")
    assert (task.name, task.budget["steps"]) == ("capitals", 50)
    scores = MultipleChoice().evaluate(tiny_loaded("llama", blocks=2), task, "test")
    assert [score.item for score in scores] == [item.id for item in task.items("test")]


def test_parquet_rows_are_as_lines(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [row | {"split": SPLITS[i % 5]} for i, row in enumerate(plain(20))]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "r.parquet")
    lines = load_task(write(tmp_path / "r.jsonl", rows))
    assert load_task(tmp_path / "r.parquet").splits == lines.splits
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UsageError, match=r"broken.parquet cannot be read as Parquet"):
        load_task(tmp_path / "broken.parquet")


COLUMNS = 'rows: r.jsonl\ncolumns: {prompt: "Say {text}", answer: label'


@pytest.mark.parametrize(
    ("description", "row", "message"),
    [
        (COLUMNS + "}", {"txt": "a", "label": "b"}, "line 1: column 'text' is missing. Did you"),
        (COLUMNS + "}", {"text": "a"}, "line 1: column 'label' is missing. Got: text."),
        (COLUMNS + ", choices: c}", {"text": "a", "label": 3, "c": ["x", "y"]}, "none of the 2"),
        (COLUMNS + ", choices: c}", {"text": "a", "label": "E", "c": ["x", "y"]}, "or letter of"),
        (COLUMNS + ", chioces: c}", {}, "Did you mean 'choices'?"),
        ("rows: r.jsonl\ncolumns: {prompt: text}", {}, "must say what 'answer' is read from"),
        ("evaluate: arith\ncolumns: {prompt: a, answer: b}", {}, "but there are none"),
        ("evaluate: arithm", {}, "unknown task 'arithm'"),
    ],
)
def test_faulty_columns(
    tmp_path: Path, description: str, row: dict[str, Any], message: str
) -> None:
    write(tmp_path / "r.jsonl", [row])
    (tmp_path / "t.yaml").write_text(description)
    with pytest.raises(UsageError) as caught:
        resolve_task(str(tmp_path / "t.yaml"), ["arith"], lambda name: pytest.fail(name))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_letters_and_numbers_name_choices(tmp_path: Path) -> None:
    rows = [{"q": f"p {i}", "a": ("B", 1, "y")[i % 3], "choices": ["x", "y"]} for i in range(60)]
    write(tmp_path / "r.jsonl", rows)
    (tmp_path / "t.yaml").write_text("rows: r.jsonl\ncolumns: {prompt: q, answer: a}")
    assert {item.answer for item in all_items(load_task(tmp_path / "t.yaml"))} == {"y"}


def test_one_task_is_scored_and_other_rows_are_learnt_from(tmp_path: Path) -> None:
    scored = load_task(EXAMPLE)
    same = scored.items("test")[0]
    rows = [*plain(99), {"prompt": f" {same.prompt.upper()}", "answer": "5"}]
    write(tmp_path / "lessons.jsonl", rows)
    path = tmp_path / "t.yaml"
    path.write_text("evaluate: sums\nrows: lessons.jsonl\nbudget: {steps: 3}\nname: mixed")
    task = resolve_task(str(path), ["sums"], lambda name: scored)
    assert (task.name, task.budget, task.evaluator) == ("mixed", {"steps": 3}, scored.evaluator)
    assert task.items("test") == scored.items("test") and task.items("dev") == scored.items("dev")
    learnt = {i.prompt for s in ("train", "align", "extract") for i in task.items(s)}
    assert learnt == {row["prompt"] for row in plain(99)}
    assert "1 row was left out" in task.card.overlap
    write(tmp_path / "lessons.jsonl", rows[-1:])
    with pytest.raises(UsageError, match=r"none of its 1 rows is left to train on"):
        resolve_task(str(path), ["sums"], lambda name: scored)


# References and comparability


def test_references() -> None:
    whole = parse_reference("mmlu:plain-5shot@rows/a b.parquet?subject=anatomy&train=x.jsonl&n=3")
    assert whole == TaskReference(
        "mmlu",
        "plain-5shot",
        "rows/a b.parquet",
        {"subject": "anatomy", "train": "x.jsonl", "n": 3},
    )
    assert whole.as_options("task")["task"] == "plain-5shot"
    assert parse_reference("gsm8k") == TaskReference("gsm8k")
    assert parse_reference("../rows.jsonl") is None


def test_comparability_tells_unlike_scores_apart() -> None:
    import attrs

    task = load_task(EXAMPLE)
    facts = task.comparability("test")
    assert facts == load_task(EXAMPLE).comparability("test")
    items = task.items("test")
    longer = attrs.evolve(items[0], answer=f"{items[0].answer}0")
    unlike = [
        attrs.evolve(task, template="tulu"),
        attrs.evolve(task, max_new_tokens=99),
        attrs.evolve(task, protocol="other"),
        attrs.evolve(task, evaluator=Choice("exact-match", {"extract": "number"})),
        attrs.evolve(task, splits={**task.splits, "test": items[:-1]}),
        attrs.evolve(task, splits={**task.splits, "test": (longer, *items[1:])}),
    ]
    keys = [facts["key"], task.comparability("dev")["key"]]
    keys += [other.comparability("test")["key"] for other in unlike]
    assert len(set(keys)) == len(keys)
    other_rows = attrs.evolve(task, splits={**task.splits, "train": task.items("align")})
    assert other_rows.comparability("test") == facts
