"""pass@k: how likely one of k answers is right, estimated from n."""

from __future__ import annotations

from pktkit.errors import UsageError


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Return the unbiased estimate `1 - C(n - c, k) / C(n, k)` of pass@k for one problem.

    It is the chance that k of the n answers, drawn without repetition, include a right one
    (Chen et al. 2021, arXiv 2107.03374, section 2.1). The quotient of binomials is a product of
    at most k factors below 1, so nothing overflows.

    Arguments:
        samples: answers drawn, n.
        correct: how many of them are right, c.
        k: answers that one may give.

    Raises:
        UsageError: k is more than n, or the counts are none.
    """
    if not (1 <= k <= samples and 0 <= correct <= samples):
        raise UsageError(
            f"pass@{k} needs 1 <= k <= samples and 0 <= correct <= samples, got {samples} samples "
            f"of which {correct} are correct."
        )
    missed = 1.0
    for drawn in range(k):
        missed *= max(0, samples - correct - drawn) / (samples - drawn)
    return 1.0 - missed
