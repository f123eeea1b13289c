"""The embedded tasks: nothing leaks, every gold answer is right, every word has a token."""

from __future__ import annotations

import importlib
import subprocess
import sys
from itertools import combinations
from types import ModuleType

import pytest

from pktkit.tasks import code, compose, facts
from pktkit.tasks.base import SPLITS, Item

NAMES = ("compose", "facts", "arith", "code", "edits")
SIZES = {"train": 1000, "align": 64, "extract": 64, "dev": 400, "test": 400}


@pytest.fixture(params=NAMES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    """Each task's module."""
    return importlib.import_module(f"pktkit.tasks.{request.param}")


@pytest.fixture(scope="module")
def tokenizer():
    """The tokenizer of the default pair, built from the tasks."""
    from pktkit.zoo.tokenizer import build_tokenizer

    return build_tokenizer()


def all_items(module: ModuleType) -> list[Item]:
    """Return the items of all splits."""
    return [item for items in module.task().splits.values() for item in items]


def test_has_the_five_splits_in_useful_sizes(module):
    splits = module.task().splits
    assert tuple(splits) == SPLITS
    assert all(len(splits[name]) >= least for name, least in SIZES.items())


def test_no_computation_is_in_two_splits(module):
    computations = {
        split: {module.canonical(item.prompt) for item in items}
        for split, items in module.task().splits.items()
    }
    for one, other in combinations(SPLITS, 2):
        assert not computations[one] & computations[other], (one, other)


def test_no_computation_is_asked_twice(module):
    items = all_items(module)
    assert len({module.canonical(item.prompt) for item in items}) == len(items)


def test_pretraining_never_shows_a_dev_or_test_computation(module):
    task = module.task()
    items = [*task.items("dev"), *task.items("test")]
    hidden = {module.canonical(item.prompt) for item in items}
    shown = module.pretraining(1.0) if module is facts else module.pretraining()
    taught_to_target = () if module is facts else module.primitives()
    assert not hidden & {example.canonical for example in (*shown, *taught_to_target)}


def test_ids_are_unique_and_stable(module):
    items = all_items(module)
    assert len({item.id for item in items}) == len(items)
    again = importlib.import_module(module.__name__).task.__wrapped__()
    assert again.splits == module.task().splits


def test_items_are_the_same_in_another_process(module):
    script = (
        "import sys, importlib; from pktkit.tasks.splitting import digest;"
        f"task = importlib.import_module('{module.__name__}').task();"
        "print(digest(repr(task.splits))); assert 'torch' not in sys.modules"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(path for path in sys.path if path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


def test_rows_give_the_items_back(module):
    items = all_items(module)[:20]
    assert [Item.from_row(item.to_row()).to_row() for item in items] == [
        item.to_row() for item in items
    ]


def test_every_token_is_in_the_vocabulary_and_text_round_trips(module, tokenizer):
    for item in all_items(module):
        for answer in (item.answer, *item.choices):
            text = f"{item.prompt} {answer}"
            ids = tokenizer(text).input_ids
            assert tokenizer.unk_token_id not in ids, text
            assert ids[0] == tokenizer.bos_token_id
            assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_answers_fit_in_the_allowed_length(module, tokenizer):
    task = module.task()
    for item in all_items(module):
        needed = len(tokenizer(item.answer, add_special_tokens=False).input_ids) + 1
        assert needed <= task.max_new_tokens


def test_compose_answers_are_right():
    operations = {
        "max": max,
        "min": min,
        "sum": lambda left, right: min(9, left + right),
        "gap": lambda left, right: abs(left - right),
    }
    for item in all_items(compose):
        stack: list[int] = []
        for word in reversed(item.prompt.removesuffix(" =").split()):
            known = word in operations
            stack.append(operations[word](stack.pop(), stack.pop()) if known else int(word))
        assert [item.answer] == [str(number) for number in stack]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("max 3 sum 2 5 =", "max sum 5 2 3 =", True),
        ("max 3 sum 2 5 =", "max 3 sum 5 2 =", True),
        ("gap 3 sum 2 5 =", "gap 2 sum 3 5 =", False),
        ("sum 3 gap 2 5 =", "gap 3 sum 2 5 =", False),
    ],
)
def test_compose_knows_which_expressions_are_the_same(one, other, same):
    assert (compose.canonical(one) == compose.canonical(other)) is same


def test_facts_offer_the_true_value_once_among_four_choices():
    for item in all_items(facts):
        assert item.choices.count(item.answer) == 1
        assert len(set(item.choices)) == facts.CHOICES


def test_facts_say_that_they_overlap():
    assert "wording" in facts.task().card.overlap


def test_arith_answers_are_right():
    from pktkit.tasks import arith

    for item in all_items(arith):
        steps, _, final = item.answer.partition(" . So the answer is ")
        start = arith.parse(item.prompt)[0]
        for step in steps.split(" , "):
            left, sign, number, _, right = step.split()
            assert int(left) == start
            start = int(right)
            assert eval(f"{left} {sign} {number}") == start
        assert final == f"{start} ."


def test_code_answers_return_the_expected_lists():
    for item in all_items(code):
        outputs = [eval(item.answer, {}, {"v": list(value)}) for value in item.check["inputs"]]
        assert outputs == item.check["outputs"]


def test_code_checks_tell_programs_apart():
    checks = [str(item.check["outputs"]) for item in all_items(code)]
    assert len(set(checks)) > 0.8 * len(checks)


@pytest.mark.parametrize(
    ("prompt", "values", "expected"),
    [
        ("for v : keep above 3 , add 2 =", [1, 4, 5], [6, 7]),
        ("for v : add 2 , keep above 5 , reverse =", [1, 4, 5], [7, 6]),
        ("for v : multiply by 3 , take 1 =", [1, 4, 5], [3]),
    ],
)
def test_code_prompts_mean_what_they_say(prompt, values, expected):
    assert eval(code.parse(prompt).expression, {}, {"v": values}) == expected


def test_edits_answers_are_right():
    from pktkit.tasks import edits

    moves = {
        "reverse": lambda s: s[::-1],
        "drop first": lambda s: s[1:],
        "drop last": lambda s: s[:-1],
        "double last": lambda s: s + s[-1],
        "swap ends": lambda s: s[-1] + s[1:-1] + s[0],
        "rotate": lambda s: s[1:] + s[0],
    }
    for item in all_items(edits):
        told, _, letters = item.prompt.removesuffix(" =").partition(" : ")
        text = letters.replace(" ", "")
        for move in told.split(" then "):
            text = moves[move](text)
        assert " ".join(text) == item.answer
