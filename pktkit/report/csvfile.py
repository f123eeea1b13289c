"""One line per task and strategy, for spreadsheets. Absent values are empty."""

from __future__ import annotations

import csv
import io

from pktkit.report.records import Comparison, Row, Summary

COLUMNS = (
    "task",
    "point",
    "strategy",
    "role",
    "seeds",
    "items",
    "mean_percent",
    "deviation_percent",
    "reference",
    "delta_points",
    "delta_low",
    "delta_high",
    "p",
    "p_holm",
    "p_exact",
    "gap_percent",
    "gap_low",
    "gap_high",
    "lost",
    "gained",
    "steps",
    "tokens",
    "trainable_parameters",
    "rows",
    "flops",
    "source_flops",
    "seconds",
    "peak_bytes",
    "failed",
)


def render_csv(summary: Summary) -> str:
    """Return the rows of all tasks under one heading line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for comparison in summary.comparisons:
        writer.writerows(_line(comparison, row) for row in comparison.rows)
    return text.getvalue()


def _line(comparison: Comparison, row: Row) -> tuple[object, ...]:
    contrast = row.against
    return (
        comparison.task,
        comparison.point,
        row.strategy,
        str(row.role),
        row.n_seeds,
        comparison.items,
        _figure(row.mean),
        _figure(row.deviation),
        *(
            (
                contrast.reference,
                _figure(contrast.points),
                _figure(contrast.interval.low),
                _figure(contrast.interval.high),
                _figure(contrast.p),
                _figure(contrast.adjusted_p),
                _figure(contrast.exact.p if contrast.exact else None),
            )
            if contrast
            else ("",) * 7
        ),
        *_gap(row),
        _figure(row.lost),
        _figure(row.gained),
        "" if row.steps is None else row.steps,
        "" if row.tokens is None else row.tokens,
        "" if row.trainable_parameters is None else row.trainable_parameters,
        "" if row.rows is None else row.rows,
        "" if row.flops is None else row.flops,
        "" if row.source_flops is None else row.source_flops,
        _figure(row.timing.total),
        row.timing.peak_bytes or "",
        row.failed or "",
    )


def _gap(row: Row) -> tuple[str, str, str]:
    if row.gap is None or row.gap.interval is None:
        return "", "", ""
    interval = row.gap.interval
    return _figure(row.gap.percent), _figure(interval.low), _figure(interval.high)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
