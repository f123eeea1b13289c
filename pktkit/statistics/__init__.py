"""Paired evidence: how far two strategies are apart on the same items and the same seeds.

Everything starts from a *difference*: scores `[seeds, items]` of one strategy minus those of
another, each score between 0 and 1. A row that does not depend on the seed (the untouched target)
is broadcast before it is subtracted. All results are on the same 0-to-1 scale as the scores.

One module per concept: `differences` (what is compared), `components` (which part of the variance
is the seeds' and which the items'), `evidence` (interval, p-value and detectable effect from one
two-level bootstrap), `exact` (the second opinion: sign-flip and McNemar), `ratio` (share of the
source-target distance closed), `multiplicity` (Holm), `repeats` (noise of runs that should be the
same), `selection` (what the best of many is worth). What is computed and why, with simulations:
docs/statistics.md, docs/sweeps.md.
"""

from __future__ import annotations

from pktkit.settings import DEFAULT_DRAWS
from pktkit.statistics.components import VarianceParts, variance_parts
from pktkit.statistics.differences import (
    FloatArray,
    Interval,
    as_difference,
    gained,
    lost,
    mean_and_deviation,
)
from pktkit.statistics.evidence import (
    PairedEvidence,
    minimum_detectable_effect,
    paired_bootstrap,
    paired_evidence,
    paired_p_value,
)
from pktkit.statistics.exact import ExactTest, exact_test
from pktkit.statistics.multiplicity import draws_needed, holm, smallest_adjusted_p
from pktkit.statistics.ratio import ShareClosed, share_closed
from pktkit.statistics.repeats import RepeatNoise, repeat_noise
from pktkit.statistics.selection import corrected_gain

__all__ = [
    "DEFAULT_DRAWS",
    "ExactTest",
    "FloatArray",
    "Interval",
    "PairedEvidence",
    "RepeatNoise",
    "ShareClosed",
    "VarianceParts",
    "as_difference",
    "corrected_gain",
    "draws_needed",
    "exact_test",
    "gained",
    "holm",
    "lost",
    "mean_and_deviation",
    "minimum_detectable_effect",
    "paired_bootstrap",
    "paired_evidence",
    "paired_p_value",
    "repeat_noise",
    "share_closed",
    "smallest_adjusted_p",
    "variance_parts",
]
