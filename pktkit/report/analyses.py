"""A folder of analyses: figures, the numbers behind them, and one page with all of them."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pktkit.errors import UsageError

if TYPE_CHECKING:
    from pktkit.analysing import Outcome
    from pktkit.analysis import AnalysisContext, AnalysisResult
    from pktkit.components import Choice
    from pktkit.outcomes import ReportSection
    from pktkit.pair import LoadedModel, ModelPair

PAGE = "analysis.html"
SCHEMA_VERSION = 1


def write_analyses(directory: Path, outcomes: Sequence[Outcome], context: AnalysisContext) -> None:
    """Write figures, data and the page; the directory appears complete or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    partial = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        partial.mkdir(parents=True)
        for name, content in _files(outcomes, context).items():
            (partial / name).write_bytes(content)
        os.replace(partial, directory)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"'{directory}' cannot be written: {reason}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _files(outcomes: Sequence[Outcome], context: AnalysisContext) -> dict[str, bytes]:
    from pktkit import __version__
    from pktkit.report.page import document, facts, section_block

    pair, task = context.pair, context.probe.task.name
    models = [f"{x.name}: {x.anatomy.n_blocks} blocks × {x.anatomy.width}" for x in _models(pair)]
    seed, split = f"seed {context.seed}", f"split {context.split}"
    files: dict[str, bytes] = {}
    lead = facts([*models, split, seed, f"pktkit {__version__}"])
    blocks = []
    for outcome in outcomes:
        name, result = outcome.choice.name, outcome.result
        if result is None:
            blocks.append(section_block(_failed(outcome)))
            continue
        pictures = _pictures(name, result)
        files |= pictures
        data = _data(outcome.choice, result, list(pictures), context)
        files[f"{name}.json"] = f"{data}\n".encode()
        blocks.append(section_block(result.section()))
    title = f"Analysis of {pair.source.name} → {pair.target.name} on {task}"
    return files | {PAGE: document(title, blocks, lead).encode()}


def _models(pair: ModelPair) -> tuple[LoadedModel, LoadedModel]:
    return pair.source, pair.target


def _failed(outcome: Outcome) -> ReportSection:
    from pktkit.outcomes import ReportSection

    return ReportSection(outcome.choice.name, f"Failed: {outcome.error}")


def _pictures(name: str, result: AnalysisResult) -> dict[str, bytes]:
    """Return the figures by file name; an only figure is called as the analysis."""
    if len(result.figures) == 1:
        return {f"{name}.png": result.figures[0].png}
    return {f"{name}-{figure.name}.png": figure.png for figure in result.figures}


def _data(
    choice: Choice, result: AnalysisResult, pictures: Sequence[str], context: AnalysisContext
) -> str:
    from pktkit.report.jsonfile import plain

    pair = context.pair
    document: Mapping[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "analysis": choice.name,
        "title": result.title,
        "source": pair.source.location or pair.source.name,
        "target": pair.target.location or pair.target.name,
        "task": context.probe.task.name,
        "split": context.split,
        "seed": context.seed,
        "options": choice.options,
        "figures": [
            {"file": file, "caption": figure.caption, "alt": figure.alt}
            for file, figure in zip(pictures, result.figures, strict=True)
        ],
        "data": result.data,
    }
    return json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False)
