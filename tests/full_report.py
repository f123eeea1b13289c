"""A summary with everything a report can show, made without a model."""

from __future__ import annotations

import io
import random

from pktkit.outcomes import CellKey, CellResult, Figure, ItemScore, ReportSection, Spent
from pktkit.report import summarise
from pktkit.report.html import render_html
from pktkit.report.losses import mean_losses
from pktkit.values import Injection

ROLES = {
    "latent": "method",
    "a-strategy-with-a-rather-long-name": "method",
    "target": "target",
    "source": "source",
    "sft": "baseline",
    "random": "placebo",
}
MAPS = {
    "latent": "depth: 1→0 3→1 5→2 (6→3 blocks)",
    "random": "depth: 1→0 3→1 5→2 (6→3 blocks)",
    "a-strategy-with-a-rather-long-name": "spread: "
    + " ".join(f"{2 * block}+{2 * block + 1}→{block}" for block in range(40))
    + " (80→48 blocks)",
}
POINTS = ("rows=16", "rows=64", "rows=256")
PLAN = {"pair": {"source": "large", "target": "small"}, "seeds": [0, 1], "split": "test"}


def cells(tasks=("arith", "facts"), points=POINTS, items=40):
    """Cells of two tasks along a curve; one strategy fails at a point."""
    chance = random.Random(0)

    def scored(share):
        return [ItemScore(f"i{i}", float(chance.random() < share)) for i in range(items)]

    found = []
    for task in tasks:
        for name, share in (("target", 0.3), ("source", 0.9)):
            found.append(CellResult(CellKey(name, task, 0), scored(share), seconds={"e": 1.0}))
        for name in ROLES:
            if name in ("target", "source"):
                continue
            for place, point in enumerate(points):
                found += [
                    _trained(CellKey(name, task, seed, point), scored(0.3 + 0.2 * place))
                    for seed in range(2)
                ]
    return found


def _trained(key, scores):
    if key.strategy == "random" and key.point == POINTS[1]:
        return CellResult(key, error="out of memory")
    losses = {"layer": [3.0 / (i + 1) for i in range(10)], "cross_entropy": [2.0, 1.5, 1.0]}
    return CellResult(
        key,
        scores,
        Injection("m", 20, 10_000, 1_000, losses=losses),
        layer_map=MAPS.get(key.strategy, ""),
        seconds={"inject": 2.0, "evaluate": 1.0},
        spent=Spent(64, 10**9, 10**9),
    )


def section():
    """A plugin's section with Markdown and a picture."""
    return ReportSection(
        "From a plugin",
        "## A heading\n\nText with `code`.\n\n| a | b |\n|:--|--:|\n| 1 | 2 |\n\n"
        + "| wide |\n|:--|\n| "
        + "word " * 60
        + "|",
        [Figure("square", picture(), "A caption.", "A grey square.")],
    )


def picture(size=(320, 200), colour=(120, 130, 140)):
    """A PNG of one colour."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def full_summary(found=None):
    """The summary of `cells`."""
    return summarise(
        cells() if found is None else found,
        roles=ROLES,
        meaning={"random": "the meaning of its map"},
        plan=PLAN,
        n_boot=99,
    )


def full_document():
    """The report of `cells` as HTML."""
    found = cells()
    return render_html(full_summary(found), [section()], mean_losses(found))
