"""Evaluators: extraction, likelihoods, and a sandbox where trouble costs one item only."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

import pktkit_benchmarks
from pktkit.components import Choice
from pktkit.errors import UsageError
from pktkit.inference.generation import Continuation
from pktkit.options import build_options
from pktkit.pair import LoadedModel
from pktkit.permission import VARIABLE
from pktkit.protocols import Evaluator
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit.testing import tiny_loaded
from pktkit_benchmarks import code_execution, exact_match, multiple_choice, worker_process
from pktkit_benchmarks.code_execution import CodeExecution, expression_of, score_expressions
from pktkit_benchmarks.exact_match import ExactMatch, score_exact_match
from pktkit_benchmarks.extraction import final_number, first_number
from pktkit_benchmarks.multiple_choice import MultipleChoice, likeliest
from pktkit_benchmarks.sandbox import Limits, Sandbox


def make_task(items: Sequence[Item], evaluator: str = "exact-match", tokens: int = 4) -> Task:
    card = TaskCard(summary="", metric="", splitting="")
    return Task("made", {"test": tuple(items)}, Choice(evaluator), card, max_new_tokens=tokens)


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return tiny_loaded("llama", blocks=2)


@pytest.fixture(autouse=True)
def permission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")


# Registration


def test_every_component_loads_and_keeps_its_promise() -> None:
    for component in pktkit_benchmarks.pktkit_evaluators():
        cls = component.load()
        instance = cls(build_options(cls.Options, {}, component.name))
        assert isinstance(instance, Evaluator)
        assert component.summary and component.reference
    for component in pktkit_benchmarks.pktkit_tasks():
        if component.external:
            assert attrs.has(component.load().Options)
        else:
            assert component.load()().name == component.name


def test_evaluate_is_not_imported_for_scoring() -> None:
    code = (
        "import sys, pktkit_benchmarks.code_execution, pktkit_benchmarks.exact_match, "
        "pktkit_benchmarks.multiple_choice; "
        "assert not {'evaluate', 'datasets', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


# Exact match

LAST = [
    ("24", "24"),
    ("the answer is 24.", "24"),
    ("24.50 dollars", "24.5"),
    ("it costs $1,234.50.", "1234.5"),
    ("1,000,000", "1000000"),
    ("3, 4 and 5", "5"),
    ("-7", "-7"),
    ("= -7", "-7"),
    ("\u22127 degrees", "-7"),
    ("- 7", "-7"),
    ("-$5", "-5"),
    ("$-5", "-5"),
    ("10-3", "3"),
    ("(10)-3", "3"),
    ("10 - -3", "-3"),
    ("about .5", "0.5"),
    ("50%", "50"),
    ("1/2", "2"),
    ("steps 3 + 4 = 7\n#### 24", "24"),
    ("#### 24\n\nQuestion: 5 apples", "24"),
    ("#### -1,024.0.", "-1024"),
    ("7 #### none", "7"),
    ("the 2nd of 3rd", "3"),
    ("5 + 3 = 8 , 8 - 2 = 6 . So the answer is 6 .", "6"),
    ("v2.0", "2.0"),
    ("", None),
    ("none at all", None),
    ("-", None),
]


@pytest.mark.parametrize(("text", "number"), LAST)
def test_final_number(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


def test_first_number() -> None:
    assert first_number("-3 then 4") == -3
    assert first_number("then") is None


def test_score_exact_match() -> None:
    assert score_exact_match(" a  b\n", "a b") == 1.0
    assert score_exact_match("a", "A") == 0.0
    assert score_exact_match("so 24.0", "x\n#### 24", "last-number") == 1.0
    assert score_exact_match("nothing", "24", "last-number") == 0.0
    with pytest.raises(UsageError, match="has no number"):
        score_exact_match("1", "one", "last-number")
    with pytest.raises(UsageError, match="Did you mean 'last-number'"):
        score_exact_match("1", "1", "last_number")


def test_exact_match_of_what_the_model_says(llama: LoadedModel) -> None:
    from pktkit.inference.generation import generate

    said = generate(llama, ["t1 t2", "t3"], max_new_tokens=4)
    items = [Item("a", "t1 t2", said[0]), Item("b", "t3", "t0 t0"), Item("c", "t3", said[1])]
    scores = ExactMatch().evaluate(llama, make_task(items), "test")
    assert [(s.item, s.score) for s in scores] == [("a", 1.0), ("b", 0.0), ("c", 1.0)]
    assert scores[1].prediction == said[1]
    with pytest.raises(UsageError, match="no split 'dev'"):
        ExactMatch().evaluate(llama, make_task(items), "dev")
    options = build_options(ExactMatch.Options, {"extract": "last-number"}, "exact-match")
    with pytest.raises(UsageError, match=r"item .x.: .*has no number"):
        ExactMatch(options).evaluate(llama, make_task([Item("x", "t1", "one")]), "test")


# Multiple choice


def test_likeliest() -> None:
    choices = [Continuation(-3.0, 3), Continuation(-2.0, 1), Continuation(-2.0, 1)]
    assert likeliest(choices) == 1
    assert likeliest(choices, "tokens") == 0


def test_multiple_choice(llama: LoadedModel) -> None:
    names = ("t4", "t5", "t6", "t7 t8")
    task = make_task([Item(f"i{k}", "t1 t2", names[k], names) for k in range(4)])
    scores = MultipleChoice().evaluate(llama, task, "test")
    assert len({score.prediction for score in scores}) == 1
    assert sum(score.score for score in scores) == 1.0


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Item("x", "t1", "t2"), "two or more different choices"),
        (Item("x", "t1", "t2", ("t2", "t2")), "two or more different choices"),
        (Item("x", "t1", "t2", ("t3", "t4")), "not among its choices"),
    ],
)
def test_unfit_choices(llama: LoadedModel, item: Item, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MultipleChoice().evaluate(llama, make_task([item]), "test")


# Gold answers


class Oracle:
    """Stands for a model that always gives the gold answer."""

    def __init__(self, task: Task) -> None:
        self.answers = {item.prompt: item.answer for item in task.items("dev")}

    def generate(self, model: Any, prompts: Sequence[str], **settings: Any) -> list[str]:
        return [self.answers[prompt] for prompt in prompts]

    def score(
        self, model: Any, prompts: Sequence[str], choices: Any, **settings: Any
    ) -> list[list[Continuation]]:
        return [
            [Continuation(0.0 if choice == self.answers[prompt] else -9.0, 1) for choice in row]
            for prompt, row in zip(prompts, choices, strict=True)
        ]


@pytest.mark.parametrize("name", ["compose", "facts", "arith", "code", "edits"])
def test_gold_answers_score_one(
    name: str, llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    components = {c.name: c for c in pktkit_benchmarks.pktkit_tasks()}
    task = components[name].load()()
    task = attrs.evolve(task, splits={**task.splits, "dev": task.items("dev")[:100]})
    oracle = Oracle(task)
    for module in (exact_match, code_execution):
        monkeypatch.setattr(module, "generate", oracle.generate)
    monkeypatch.setattr(multiple_choice, "score_continuations", oracle.score)
    evaluators = {c.name: c for c in pktkit_benchmarks.pktkit_evaluators()}
    cls = evaluators[task.evaluator.name].load()
    evaluator = cls(build_options(cls.Options, task.evaluator.options, name))
    scores = evaluator.evaluate(llama, task, "dev")
    assert [score.item for score in scores] == [item.id for item in task.items("dev")]
    assert {score.score for score in scores} == {1.0}


# The sandbox, by what a model might write

GOOD = "[ x * 2 for x in v if x > len ( v ) - 2 ] [ : : - 1 ]"
CHECK = {"inputs": [[1, 2, 3], []], "outputs": [[6, 4], []]}
TROUBLE = {
    "endless": "[ x for x in iter ( int , 1 ) ]",
    "hang": "9 ** 9 ** 9",
    "hang in C": "sum ( range ( 10 ** 12 ) )",
    "memory bomb": "[ 0 ] * 10 ** 11",
    "growing memory": "[ 'x' * i for i in range ( 10 ** 9 ) ]",
    "huge output": "'x' * 10 ** 6",
    "import": "__import__ ( 'os' ) . system ( 'true' )",
    "open": "open ( '/etc/passwd' )",
    "exec": "exec ( 'import os' )",
    "eval": "eval ( '1' )",
    "class walk": "( ) . __class__ . __base__ . __subclasses__ ( )",
    "format walk": "'{0.__class__}' . format ( v )",
    "frame walk": "( x for x in v ) . gi_frame",
    "builtins": "__builtins__",
    "statement": "import os",
    "assignment": "v = 3",
    "half": "[ x for x in",
    "deep": "(" * 3000 + ")" * 3000,
    "deep unary": "-" * 9000 + "1",
    "null byte": "v\0",
    "surrogate": "v + '\ud800'",
    "empty": "",
    "tuple": "tuple ( v )",
    "generator": "( x for x in v )",
    "huge number": "10 ** 5000",
    "wrong": "v",
}


def test_trouble_costs_one_item_only() -> None:
    predictions = [text for trouble in TROUBLE.values() for text in (trouble, GOOD)]
    scores = score_expressions(predictions, [CHECK] * len(predictions), Limits(seconds=0.7))
    assert dict(zip(TROUBLE, scores[::2], strict=True)) == dict.fromkeys(TROUBLE, 0.0)
    assert scores[1::2] == [1.0] * len(TROUBLE)


def test_reasons_are_told() -> None:
    with Sandbox(Limits(seconds=0.5)) as sandbox:
        assert sandbox.run("sum ( range ( 10 ** 12 ) )", [1]).error == "ran out of time"
        assert sandbox.run("open ( 'x' )", [1]).error.startswith("NameError")
        assert "attribute '__class__'" in sandbox.run("v . __class__", [1]).error
        assert sandbox.run("[ 0 ] * 10 ** 11", [1]).error.startswith("MemoryError")
        assert sandbox.run("v + 1", [1, 2]).outputs == (2, 3)


def test_inputs_are_fresh_for_every_item() -> None:
    with Sandbox() as sandbox:
        assert sandbox.run("[ v . append ( 1 ) , v ]", [[0]]).outputs == ([None, [0, 1]],)
        assert sandbox.run("v", [[0]]).outputs == ([0],)
        assert sandbox.run("[ w for w in word ]", ["ab"], variable="word").outputs == (["a", "b"],)


def test_the_process_ends_with_the_sandbox() -> None:
    with Sandbox(Limits(seconds=0.3)) as sandbox:
        sandbox.run("v", [1])
        worker = sandbox._worker
        assert worker._process is not None
        process, folder = worker._process, Path(worker._folder.name)
        process.kill()
        process.wait()
        assert "ended" in sandbox.run("v", [1]).error
        assert sandbox.run("v", [1]).outputs == (1,)
        process = worker._process
    assert process is not None and process.poll() is not None and not folder.exists()


# The second wall: what the process could do if an expression got past the screen

ESCAPES = {
    "fork": "os.fork()",
    "write a file": "open('stolen.txt', 'w').write('x' * 100)",
    "read a file": "open('/etc/passwd').read()",
    "socket": "_socket.socket()",
    "memory": "bytearray(1 << 30)",
    "raise the limits": "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    "environment": "os.environ['SECRET']",
    "inherited file": "os.read(7, 1)",
}


@pytest.mark.parametrize("without", ["", "seccomp", "seccomp landlock", "landlock"])
def test_the_process_itself_is_confined(tmp_path: Path, without: str) -> None:
    script = textwrap.dedent(
        """
        import _socket, json, os, resource, sys
        sys.path.insert(0, sys.argv[1])
        from confined.confinement import confine
        walls = confine(memory=200 << 20, without=sys.argv[3].split())
        assert not set(walls) & set(sys.argv[3].split())
        done = []
        for name, code in json.loads(sys.argv[2]).items():
            try:
                eval(code)
            except (OSError, MemoryError, ValueError, KeyError) as error:
                continue
            done.append(name)
        os.write(1, json.dumps(done).encode())
        """
    )
    place = str(Path(worker_process.__file__).parent)
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, place, json.dumps(ESCAPES), without],
        capture_output=True,
        cwd=tmp_path,
        env={},
        timeout=30,
        check=True,
    )
    assert json.loads(result.stdout) == []
    assert not list(tmp_path.iterdir()) or (tmp_path / "stolen.txt").stat().st_size == 0


def test_environment_and_files_are_not_handed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    with Sandbox() as sandbox:
        sandbox.run("v", [1])
        process = sandbox._worker._process
        assert process is not None
        place = Path(f"/proc/{process.pid}")
        if not place.exists():
            pytest.skip("no /proc here")
        own_session = int((place / "stat").read_text().rsplit(")", 1)[1].split()[3])
        assert own_session == process.pid
        try:
            assert b"SECRET" not in (place / "environ").read_bytes()
            assert len(list((place / "fd").iterdir())) == 3
        except PermissionError:
            pytest.skip("the process runs as another user")


# Code execution


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        (" v [ 1 : ] \nmore", "v [ 1 : ]"),
        ("```python\nv[1:]\n```\nthat is it", "v[1:]"),
        ("Sure:\n```\nv\n```", "v"),
        ("```v```", "v"),
        ("", ""),
    ],
)
def test_expression_of(text: str, expression: str) -> None:
    assert expression_of(text) == expression


def test_code_execution_scores_items() -> None:
    items = [Item(name, "p", GOOD, check=CHECK) for name in "ab"]
    scores = CodeExecution().score(items, [GOOD, "v"])
    assert [(s.item, s.score, s.prediction) for s in scores] == [("a", 1.0, GOOD), ("b", 0.0, "v")]


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({}, "needs a check with lists"),
        ({"inputs": [], "outputs": []}, "needs a check with lists"),
        ({"inputs": [1], "outputs": []}, "1 inputs but 0 outputs"),
    ],
)
def test_unfit_checks(llama: LoadedModel, check: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"item 'x' {message}|item 'x' has {message}"):
        CodeExecution().evaluate(llama, make_task([Item("x", "t1", "v", check=check)]), "test")


# The same scores as `evaluate` metrics


def test_metrics_agree_with_the_evaluators(tmp_path: Path) -> None:
    from pktkit_benchmarks.metrics import (
        CodeExecutionMetric,
        ExactMatchMetric,
        MultipleChoiceMetric,
    )

    cache = tmp_path / "cache"
    exact = ExactMatchMetric(cache_dir=str(cache))
    said, gold = ["so 7", "8", "-9."], ["#### 7", "#### 9", "-9"]
    found = exact.compute(predictions=said, references=gold, extract="last-number")
    scores = [score_exact_match(a, b, "last-number") for a, b in zip(said, gold, strict=True)]
    assert found == {"exact_match": pytest.approx(sum(scores) / 3)}
    assert exact.compute(predictions=said, references=said) == {"exact_match": 1.0}

    choice = MultipleChoiceMetric(cache_dir=str(cache))
    choice.add_batch(predictions=["a", "b"], references=["a", "c"])
    assert choice.compute() == {"accuracy": 0.5}

    code = CodeExecutionMetric(cache_dir=str(cache))
    references = [json.dumps(CHECK)] * 2
    assert code.compute(predictions=[GOOD, "v"], references=references) == {"pass@1": 0.5}
    assert not cache.exists(), "nothing is written to disk"
