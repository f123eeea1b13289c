"""A pair in words and numbers, without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pktkit.inference.likelihood import context_limit
from pktkit.pair import describe

if TYPE_CHECKING:
    from pktkit.checkpoints.outline import Outline
    from pktkit.outlook.outlines import PairOutline


def describe_outlines(pair: PairOutline) -> dict[str, Any]:
    """Return what there is to know about a pair, JSON-serialisable.

    As `pktkit.pair.describe` (`dtype` is what the weights would be loaded in), with what files
    say: `stored` precision and `bytes` of the weight files, `context` in positions, and
    `licence`. `notes` says what could not be told.
    """
    told = describe(pair.prospect.pair)
    for side, found in (("source", pair.source), ("target", pair.target)):
        told[side] = _completed(told[side], found)
    return {**told, "notes": list(pair.notes)}


def _completed(facts: dict[str, Any], found: Outline) -> dict[str, Any]:
    kept = {name: value for name, value in facts.items() if name != "device"}
    heads, keys = facts["heads"], facts["kv_heads"]
    return {
        **kept,
        "queries_per_key": heads // keys,
        "context": context_limit(found.model),
        "stored": found.stored.dtype or None,
        "bytes": found.stored.bytes or None,
        "adapter": None if found.files.adapter is None else str(found.files.adapter),
        "licence": found.licence,
    }
