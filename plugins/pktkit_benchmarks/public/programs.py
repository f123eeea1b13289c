"""How programs are asked for and scored, shared by HumanEval and MBPP."""

from __future__ import annotations

from typing import Any

import attrs

from pktkit.components import Choice
from pktkit.errors import UsageError
from pktkit_benchmarks.public.family import CodeOptions

INSTRUCTION = "Complete the following python function.\n\n\n"
BEGIN = "Here is the completed function:\n\n\n"


@attrs.frozen
class Draws:
    """How many answers a protocol draws, and how."""

    samples: int
    temperature: float
    top_p: float = 1.0


def code_tests(
    options: CodeOptions, draws: Draws, *, stops: tuple[str, ...], take: str = "text"
) -> Choice:
    """Return the evaluator: the protocol's settings, and what the user set instead.

    Raises:
        UsageError: `k` is more than there are samples.
    """
    said: dict[str, Any] = attrs.asdict(draws)
    said["take"] = take
    said |= {name: value for name in said if (value := getattr(options, name)) is not None}
    if options.k > said["samples"]:
        raise UsageError(
            f"pass@{options.k} needs at least {options.k} samples, got {said['samples']}. "
            f"Set samples={options.k} or more."
        )
    return Choice("code-tests", {**said, "k": options.k, "seed": options.seed, "stops": stops})
