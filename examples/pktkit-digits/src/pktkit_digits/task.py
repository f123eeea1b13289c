"""`compose-near`: the items of pktkit's `compose`, with partial credit."""

from __future__ import annotations

import attrs

from pktkit.components import Choice
from pktkit.tasks import compose
from pktkit.tasks.base import Task


def task() -> Task:
    """Return the task: the same splits, scored by `near-number`."""
    given = compose.task()
    return attrs.evolve(
        given,
        name="compose-near",
        evaluator=Choice("near-number", {"span": 9}),
        card=attrs.evolve(given.card, metric="closeness"),
    )
