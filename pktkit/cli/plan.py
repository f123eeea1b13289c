"""`pktkit plan`: what `compare` would do and take, without doing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pktkit.cli.compare import compare
from pktkit.cli.comparison import Request, planned
from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.options import ModelChoice, gathered, model_options
from pktkit.errors import EXIT_DOES_NOT_FIT, EXIT_OK
from pktkit.tables import table

if TYPE_CHECKING:
    from pktkit.outlook.arms import Arm
    from pktkit.outlook.forecast import Forecast

_MAP = 60
"""Characters of a layer map in the table."""


@model_options
@pass_app
@gathered("request", Request)
def _show(app: AppContext, models: ModelChoice, request: Request, **further: Any) -> int:
    from pktkit.compare.preview import announce
    from pktkit.outlook.forecast import forecast

    if request.strategies is None:
        raise click.UsageError("Missing option '--strategies'.")
    plan = planned(app, models, request)
    found = forecast(plan, app.registry, jobs=request.jobs, cache=models.cache)
    out = request.out or Path("runs")
    shortages = found.shortages(models.cache, out)
    click.echo(announce(plan))
    click.echo()
    click.echo(_arms(found))
    click.echo()
    click.echo("\n".join(_lines(found, plan.pair.dtype, models.cache)))
    for shortage in shortages:
        click.echo(f"does not fit: {shortage}")
    if not shortages:
        click.echo("fits")
    return EXIT_DOES_NOT_FIT if shortages else EXIT_OK


plan = click.Command(
    "plan",
    callback=_show,
    params=list(compare.params),
    short_help="Show what a comparison would take.",
    help="Show what `compare` with the same options would do and take, and run nothing.\n\n"
    "No weights are read. Memory is estimated by formula and checked against measured peaks; "
    "time is rough. Ends with 4 if it does not fit this machine.",
)


def _arms(found: Forecast) -> str:
    rows = [
        [
            arm.strategy,
            str(arm.verdict.word),
            _shortened(arm.layer_map) or "-",
            *_touched(arm),
            _size(arm.bytes),
        ]
        for arm in found.arms
    ]
    headers = ["strategy", "verdict", "layer map", "changes", "parameters", "holds beside"]
    return table(headers, rows, right=(4, 5))


def _touched(arm: Arm) -> tuple[str, object]:
    if arm.touched is not None:
        return arm.touched.what, arm.touched.parameters
    return "nothing" if arm.verdict.strategy in ("target", "source") else "not declared", "-"


def _lines(found: Forecast, dtype: str, cache: Path | None) -> list[str]:
    from pktkit.outlook.room import free_device

    lines = []
    largest = max(found.arms, key=lambda arm: arm.bytes)
    for device, parts in found.held.items():
        beside = dict(largest.parts) if device == _place(found.target_device) else {}
        told = " + ".join(f"{n} {_size(s)}" for n, s in {**parts, **beside}.items() if s)
        times = f", {found.jobs} processes" if found.jobs > 1 else ""
        free = free_device(device)
        left = "" if free is None else f" of {_size(free)} free"
        lines.append(f"memory   {device}: peak ≈ {_size(found.peak[device])}{left}{times}")
        lines.append(f"         {told}" + (f" ({largest.strategy})" if beside else ""))
    lines.append("disk     " + ", ".join(f"{n} ≈ {_size(s)}" for n, s in found.disk.items()))
    seconds, rate = found.seconds(dtype)
    lines.append(
        f"time     ≈ {_time(seconds)}, rough: {found.flops / 1e12:.3g} TFLOP by formula, a matrix "
        f"product runs at {rate / 1e9:.0f} GFLOP/s here"
    )
    if found.hits is None:
        lines.append("cache    readings are kept for the run only; --cache DIR keeps them")
    else:
        count, size = found.hits
        lines.append(
            f"cache    {count} readings of these rows ({_size(size)}) in {cache}; whether they are "
            "of these weights shows when those are loaded"
        )
    return lines


def _place(device: str) -> str:
    return "cpu" if device.startswith("cpu") else device


def _shortened(text: str) -> str:
    return text if len(text) <= _MAP else text[: _MAP - 1].rstrip() + "…"


def _size(size: float) -> str:
    from pktkit.outlook.forecast import gib

    return gib(size)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
