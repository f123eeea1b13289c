"""The evaluators' scores as `evaluate` metrics, for use outside pktkit.

Built from the functions the evaluators use. Nothing is fetched from a hub and nothing written to
disk: predictions are kept in memory. Importing this module imports `evaluate`, which takes
seconds, so nothing on pktkit's own path imports it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate

from pktkit_benchmarks.code_execution import score_expressions
from pktkit_benchmarks.exact_match import score_exact_match
from pktkit_benchmarks.multiple_choice import score_choice
from pktkit_benchmarks.sandbox import Limits


class _Metric(evaluate.Metric):
    """A metric over two columns of text that keeps what it is given in memory."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"keep_in_memory": True} | settings)

    def _build_data_dir(self) -> str:
        """Name the folder for predictions without creating it: nothing is written there."""
        return str(self._data_dir_root)


class ExactMatchMetric(_Metric):
    """Mean of `score_exact_match`, 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return _described(
            "Share of predictions equal to the gold answer, or to the number it comes to.",
            "Cobbe et al. 2021, arXiv 2110.14168 (final-number matching)",
            {
                "predictions": "what the model said.",
                "references": "gold answers.",
                "extract": "`all`, `last-number` or `first-number`.",
            },
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str], extract: str = "all"
    ) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        return {"exact_match": _mean([score_exact_match(p, r, extract) for p, r in pairs])}


class MultipleChoiceMetric(_Metric):
    """Mean of `score_choice`, 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return _described(
            "Share of items whose likeliest choice is the gold choice.",
            "Hendrycks et al. 2021, arXiv 2009.03300",
            {
                "predictions": "the choice taken for each item.",
                "references": "the gold choice.",
            },
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        return {"accuracy": _mean([score_choice(p, r) for p, r in pairs])}


class CodeExecutionMetric(_Metric):
    """Mean of `score_expressions`, 0 to 1: pass@1 with one answer per item."""

    def _info(self) -> evaluate.MetricInfo:
        return _described(
            "Share of generated expressions that return the right value for every input.",
            "Chen et al. 2021, arXiv 2107.03374 (pass@k, here k = 1)",
            {
                "predictions": "generated Python expressions.",
                "references": "for each, JSON text with `inputs` and `outputs`.",
                "seconds": "wall time for one expression.",
                "variable": "the name the expressions read.",
            },
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        seconds: float = 2.0,
        variable: str = "v",
    ) -> dict[str, float]:
        checks = [json.loads(reference) for reference in references]
        limits = Limits(seconds=seconds)
        return {"pass@1": _mean(score_expressions(predictions, checks, limits, variable))}


def _described(
    description: str, citation: str, arguments: Mapping[str, str]
) -> evaluate.MetricInfo:
    listed = "".join(f"\n    {name}: {meaning}" for name, meaning in arguments.items())
    text = datasets.Value("string")
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=f"\nArguments:{listed}\n",
        features=datasets.Features({"predictions": text, "references": text}),
    )


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores) if scores else 0.0
