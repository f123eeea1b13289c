"""The naive family: what any method must beat."""

from __future__ import annotations

from pktkit.components import Choice, Strategy

NAIVE = Strategy(
    name="naive",
    matcher=Choice("depth"),
    aligner=Choice("truncate"),
    injector=Choice("overwrite"),
    summary="overwrites the target with the source's parameters, truncated",
)

INTERPOLATE = Strategy(
    name="naive-interpolate",
    matcher=Choice("depth"),
    aligner=Choice("truncate"),
    injector=Choice("interpolate"),
    summary="moves the target's parameters towards the source's, truncated",
)

SLICE = Strategy(
    name="naive-slice",
    matcher=Choice("depth"),
    aligner=Choice("slice-by-norm"),
    injector=Choice("overwrite"),
    summary="overwrites the target with the source's parts of largest norm",
)

TASK_VECTOR = Strategy(
    name="naive-task-vector",
    matcher=Choice("depth"),
    aligner=Choice("task-vector"),
    injector=Choice("interpolate", {"alpha": 1.0}),
    summary="adds what training changed in the source, truncated; needs aligner.base",
    reference="arXiv 2212.04089",
)
