"""Results as data. `scores` is the same for two runs of the same plan; `timing` is not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import attrs

from pktkit.report.budgets import unlike
from pktkit.report.curves import Curve, curves
from pktkit.report.records import Comparison, Contrast, Row, Summary
from pktkit.report.verdict import verdict_sentences

SCHEMA_VERSION = 1


def results(summary: Summary) -> dict[str, Any]:
    """Return everything in a summary as JSON-serialisable data.

    Keys: `schema_version`; `plan`, as given; `scores` by task (`task at point` on a curve),
    deterministic: rows, contrasts, verdict; `timing` by task and strategy: wall seconds by stage
    (mean over seeds) and peak bytes; `curves`, of a run with several points: score and interval
    by task, strategy and budget.
    Scores are in percent, differences in points, absent values are null.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "plan": plain(summary.plan),
        "scores": {c.name: _scores(c) for c in summary.comparisons},
        "curves": [_curve(curve) for curve in curves(summary)],
        "timing": {c.name: _timing(c) for c in summary.comparisons},
    }


def render_json(summary: Summary) -> str:
    """Return `results` as indented JSON text."""
    return json.dumps(results(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Return a value made of what JSON has; NaN and infinities become null.

    Arrays and tensors become lists, anything else that JSON lacks becomes its text.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, set | frozenset):
        return sorted(str(entry) for entry in value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def _scores(comparison: Comparison) -> dict[str, Any]:
    return {
        "task": comparison.task,
        "point": comparison.point,
        "items": comparison.items,
        "alpha": comparison.alpha,
        "reference": comparison.reference or None,
        "rows": [_row(row) for row in comparison.rows],
        "contrasts": [_contrast(contrast) for contrast in comparison.contrasts],
        "unlike_budgets": unlike(comparison),
        "verdict": list(verdict_sentences(comparison)),
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "strategy": row.strategy,
        "role": str(row.role),
        "control": row.control,
        "seeds": list(row.seeds),
        "failed": row.failed,
        "failures": [{"seed": f.seed, "reason": f.reason} for f in row.failures],
        "mean": row.mean,
        "deviation": row.deviation,
        "against_target": _contrast(row.against_target) if row.against_target else None,
        "against": _contrast(row.against) if row.against else None,
        "gap_closed": _gap(row),
        "lost": row.lost,
        "gained": row.gained,
        "steps": row.steps,
        "tokens": row.tokens,
        "trainable_parameters": row.trainable_parameters,
        "rows": row.rows,
        "flops": row.flops,
        "source_flops": row.source_flops,
        "target_flops": row.target_flops,
        "layer_map": row.layer_map,
        "repeats": attrs.asdict(row.repeats) if row.repeats else None,
    }


def _gap(row: Row) -> dict[str, Any] | None:
    """Return the share closed; all null where it is undefined, None where it has no meaning."""
    if row.gap is None:
        return None
    interval = row.gap.interval
    return {
        "percent": row.gap.percent,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
    }


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "task": curve.task,
        "strategy": curve.strategy,
        "axis": curve.axis,
        "level": curve.level,
        "points": [
            {
                "budget": point.budget,
                "mean": point.mean,
                "low": point.interval.low if point.interval else None,
                "high": point.interval.high if point.interval else None,
                "seeds": point.seeds,
            }
            for point in curve.points
        ],
    }


def _contrast(contrast: Contrast) -> dict[str, Any]:
    return {
        "strategy": contrast.strategy,
        "reference": contrast.reference,
        "points": contrast.points,
        "low": contrast.interval.low,
        "high": contrast.interval.high,
        "p": contrast.p,
        "adjusted_p": contrast.adjusted_p,
        "detectable": contrast.detectable,
        "seeds": contrast.seeds,
        "exact_p": contrast.exact.p if contrast.exact else None,
        "exact_test": contrast.exact.name if contrast.exact else None,
        "variance": attrs.asdict(contrast.variance) if contrast.variance else None,
        "claim": None if contrast.adjusted_p is None else str(contrast.claim),
    }


def _timing(comparison: Comparison) -> dict[str, Any]:
    return {
        row.strategy: {
            "seconds": plain(row.timing.seconds),
            "total_seconds": row.timing.total,
            "peak_bytes": row.timing.peak_bytes,
        }
        for row in comparison.rows
    }
