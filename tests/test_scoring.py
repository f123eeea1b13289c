"""Shares of a split: every item once, evenly, long ones spread, like prompts together."""

from __future__ import annotations

import pytest
from tiny_transfers import word_task

from pktkit.running.scoring import part_of, shares_of
from pktkit.tasks.base import Item


def items_of(*prompts: str) -> list[Item]:
    return [Item(str(place), prompt, "a") for place, prompt in enumerate(prompts)]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [0, 1, 5, 12, 13])
def test_every_item_is_in_one_share_and_shares_are_even(count, rows):
    items = items_of(*(f"{place} " * (1 + (7 * place) % 10) for place in range(rows)))
    shares = shares_of(items, count)
    assert len(shares) == count
    assert sorted(place for share in shares for place in share) == list(range(rows))
    assert all(list(share) == sorted(share) for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_long_items_at_one_end_are_spread():
    items = items_of(*(f"{place} " * (1 if place < 28 else 50) for place in range(40)))
    lengths = [sum(len(items[place].prompt) for place in share) for share in shares_of(items, 4)]
    assert max(lengths) < 1.1 * min(lengths)


def test_prompts_that_read_alike_stay_together():
    """What is drawn for one depends on how often it was asked before."""
    items = items_of("the same", "b", "c", " The  same\n", "d", "the same")
    for count in (2, 3, 6):
        (found,) = [share for share in shares_of(items, count) if 0 in share]
        assert {0, 3, 5} <= set(found)


def test_a_part_is_the_task_with_fewer_items_of_the_split():
    task = word_task(5)
    part = part_of(task, "test", (1, 4))
    assert part.items("test") == (task.items("test")[1], task.items("test")[4])
    assert part.items("train") == task.items("train")
    assert (part.evaluator, part.template, part.name) == (task.evaluator, task.template, task.name)
