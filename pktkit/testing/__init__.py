"""The contract kit for plugin authors: tiny models, strategies that draw values, and laws.

Everything named in `__all__` is public and stable, see `docs/contract-kit.md`. Hypothesis is
imported when one of its strategies or a law is asked for, pytest when `parametrize_with_checks` is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pktkit.testing.laws import LAWS, LAWS_VERSION, Law
from pktkit.testing.models import (
    FAMILIES,
    tiny_loaded,
    tiny_model,
    tiny_tokenizer,
)

if TYPE_CHECKING:
    from pktkit.testing.checks import (
        Check,
        CheckResult,
        LawViolation,
        NotApplicable,
        Outcome,
        check_aligner,
        check_evaluator,
        check_injector,
        check_matcher,
        check_strategy,
        checks_for,
        run_checks,
    )
    from pktkit.testing.pytest import parametrize_with_checks
    from pktkit.testing.reparametrise import renumbered, rotated
    from pktkit.testing.strategies import alignments, heads, layer_maps, model_pairs, states

_HOMES = {
    "checks": (
        "Check",
        "CheckResult",
        "LawViolation",
        "NotApplicable",
        "Outcome",
        "check_aligner",
        "check_evaluator",
        "check_injector",
        "check_matcher",
        "check_strategy",
        "checks_for",
        "run_checks",
    ),
    "pytest": ("parametrize_with_checks",),
    "reparametrise": ("renumbered", "rotated"),
    "strategies": ("alignments", "heads", "layer_maps", "model_pairs", "states"),
}

__all__ = [
    "FAMILIES",
    "LAWS",
    "LAWS_VERSION",
    "Check",
    "CheckResult",
    "Law",
    "LawViolation",
    "NotApplicable",
    "Outcome",
    "alignments",
    "check_aligner",
    "check_evaluator",
    "check_injector",
    "check_matcher",
    "check_strategy",
    "checks_for",
    "heads",
    "layer_maps",
    "model_pairs",
    "parametrize_with_checks",
    "renumbered",
    "rotated",
    "run_checks",
    "states",
    "tiny_loaded",
    "tiny_model",
    "tiny_tokenizer",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in when it is first asked for."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"pktkit.testing.{module}"), name)
    raise AttributeError(f"module 'pktkit.testing' has no attribute '{name}'")
