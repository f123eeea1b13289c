"""Built-in plugin: the evaluators, and the tasks of the default pair.

Only descriptors live here; evaluators and tasks are imported when they are chosen.
"""

from __future__ import annotations

from pktkit.components import Component
from pktkit.hookspecs import hookimpl


@hookimpl
def pktkit_evaluators() -> list[Component]:
    """Register the evaluators."""
    return [
        Component(
            name="exact-match",
            path="pktkit_benchmarks.exact_match:ExactMatch",
            summary="Greedy answer equal to the gold one: all of it, or its first or last number.",
            reference="GSM8K, arXiv 2110.14168",
        ),
        Component(
            name="multiple-choice",
            path="pktkit_benchmarks.multiple_choice:MultipleChoice",
            summary="The likeliest of the item's choices is the gold one.",
            reference="MMLU, arXiv 2009.03300",
        ),
        Component(
            name="code-execution",
            path="pktkit_benchmarks.code_execution:CodeExecution",
            summary="Greedy Python expression returns the right values, run in a sandbox (pass@1).",
            reference="HumanEval, arXiv 2107.03374",
        ),
    ]


@hookimpl
def pktkit_tasks() -> list[Component]:
    """Register the tasks of the default pair."""
    return [
        Component(
            name="compose",
            path="pktkit.tasks.compose:task",
            summary="Nested operations on digits, answered directly.",
        ),
        Component(
            name="facts",
            path="pktkit.tasks.facts:task",
            summary="Four-choice questions about an invented world; stands for MMLU.",
        ),
        Component(
            name="arith",
            path="pktkit.tasks.arith:task",
            summary="One-line word problems with written steps; stands for GSM8K.",
        ),
        Component(
            name="code",
            path="pktkit.tasks.code:task",
            summary="List transformations as Python expressions; stands for HumanEval.",
        ),
        Component(
            name="edits",
            path="pktkit.tasks.edits:task",
            summary="Two edits of a sequence, no step in between shown; stands for MBPP.",
        ),
    ]
