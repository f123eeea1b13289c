"""Stage results in one line, with shapes, for the trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pktkit.values import Origin, Space

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.values import Alignment, Injection, TargetStates


def alignment_shapes(alignment: Alignment, pair: ModelPair) -> str:
    """Say what an alignment holds, e.g. `states of blocks 0 1, [tokens, 96] → [tokens, 64]`."""
    parts = []
    if alignment.target_states is not None:
        parts.append(_states(alignment.target_states, pair))
    parts += _counted("low-rank", (f"{_of(u.b)}·{_of(u.a)}" for u in alignment.low_rank))
    parts += _counted("dense", (_of(u.value) for u in alignment.dense))
    parts += _counted("sparse", (_of(u.values) for u in alignment.sparse))
    if alignment.sparse_at is not None:
        parts.append("sparse updates per item")
    return f"{alignment.method}: " + ("; ".join(parts) or "nothing")


def injection_figures(injection: Injection, changed: int) -> str:
    """Say how much an injector did, and how many parameters differ now."""
    return (
        f"{injection.method}: {injection.steps} steps, {injection.tokens} tokens, "
        f"{injection.trainable_parameters} trainable, {changed} parameters changed"
    )


def _states(states: TargetStates, pair: ModelPair) -> str:
    target = pair.target.anatomy.width
    origin = pair.source.anatomy.width if states.origin is Origin.SOURCE else target
    width = target if states.space is Space.TARGET else origin
    blocks = " ".join(map(str, states.blocks))
    readouts = " with readouts" if states.readouts else ""
    return (
        f"{states.interface} states of blocks {blocks}, [tokens, {origin}] → "
        f"[tokens, {width}]{readouts}"
    )


def _counted(kind: str, shapes: Iterable[str]) -> list[str]:
    """Return how many updates there are of each shape."""
    counts = Counter(shapes)
    listed = ", ".join(f"{number} × {shape}" for shape, number in counts.items())
    return [f"{kind} updates {listed}"] if counts else []


def _of(tensor: Any) -> str:
    return str(list(tensor.shape))
