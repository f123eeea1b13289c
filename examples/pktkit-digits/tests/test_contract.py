"""The laws of pktkit's contract kit."""

from pktkit_digits.evaluator import NearNumber

from pktkit.components import Choice, Kind
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit.testing import parametrize_with_checks

WORDS = Task(
    name="numbers",
    splits={
        "test": tuple(Item(f"i{i}", f"t{i} t{i + 3}", str(i)) for i in range(6)),
    },
    evaluator=Choice("near-number"),
    card=TaskCard("Gold answers that are numbers.", "closeness", "by number"),
    max_new_tokens=3,
)


@parametrize_with_checks(Kind.EVALUATOR, [NearNumber], task=WORDS)
def test_evaluator(component, check):
    check()
