"""Built-in pktkit plugin: the naive family, source weights cut to the target's shape."""

from __future__ import annotations

from collections.abc import Iterable

from pktkit.components import Component
from pktkit.hookspecs import hookimpl

_TASK_ARITHMETIC = "arXiv 2212.04089"


@hookimpl
def pktkit_latent_aligners() -> Iterable[Component]:
    """Register truncation, slicing by norm and the task vector."""
    return [
        Component(
            name="truncate",
            path="pktkit_naive.aligner:Truncate",
            summary="cuts the source's parameters to the target's shape from the top left",
        ),
        Component(
            name="slice-by-norm",
            path="pktkit_naive.aligner:SliceByNorm",
            summary="keeps the source's coordinates, heads and neurons of the largest norm",
        ),
        Component(
            name="task-vector",
            path="pktkit_naive.aligner:TaskVector",
            summary="adds the source minus its base model, truncated",
            reference=_TASK_ARITHMETIC,
        ),
    ]


@hookimpl
def pktkit_knowledge_injectors() -> Iterable[Component]:
    """Register overwriting and interpolation."""
    return [
        Component(
            name="overwrite",
            path="pktkit_naive.injector:Overwrite",
            summary="replaces target parameters, wholly or in part, without training",
        ),
        Component(
            name="interpolate",
            path="pktkit_naive.injector:Interpolate",
            summary="moves target parameters a share α of the way to new values",
        ),
    ]


@hookimpl
def pktkit_strategies() -> Iterable[Component]:
    """Register the strategies of the family."""
    return [
        Component(
            name="naive",
            path="pktkit_naive.strategies:NAIVE",
            summary="overwrites the target with the source's parameters, truncated",
        ),
        Component(
            name="naive-interpolate",
            path="pktkit_naive.strategies:INTERPOLATE",
            summary="moves the target's parameters towards the source's, truncated",
        ),
        Component(
            name="naive-slice",
            path="pktkit_naive.strategies:SLICE",
            summary="overwrites with the source's parts of largest norm",
        ),
        Component(
            name="naive-task-vector",
            path="pktkit_naive.strategies:TASK_VECTOR",
            summary="adds what training changed in the source; needs aligner.base",
            reference=_TASK_ARITHMETIC,
        ),
    ]
