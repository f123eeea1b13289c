"""Whether a comparison could show anything at all, asked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pktkit.errors import UsageError, unknown_name
from pktkit.statistics import draws_needed, smallest_adjusted_p

if TYPE_CHECKING:
    from pktkit.components import Strategy
    from pktkit.settings import EvidenceSettings


def require_claims_possible(evidence: EvidenceSettings, strategies: Sequence[Strategy]) -> None:
    """Check that references are rows, and that a claim could be made with so many draws.

    Raises:
        UsageError: a reference is no row, or even the smallest p-value is not below alpha.
    """
    rows = [strategy.name for strategy in strategies]
    for name in evidence.references:
        if name not in rows:
            raise unknown_name("reference", name, rows)
    trained = [strategy for strategy in strategies if strategy.injector is not None]
    methods = [strategy for strategy in trained if not strategy.control]
    looks = max(1, len(methods or trained))
    smallest = smallest_adjusted_p(evidence.n_boot, looks)
    if smallest >= evidence.alpha:
        raise UsageError(
            f"--n-boot {evidence.n_boot} cannot show anything at --alpha {evidence.alpha:g}: with "
            f"{looks} strategies the smallest p-value after Holm is {looks} × 2 / "
            f"{evidence.n_boot + 1} = {smallest:.2g}. Give --n-boot "
            f"{draws_needed(evidence.alpha, looks)} or more; ten times that for steady intervals."
        )
