"""What the best of many configurations seems to gain, and what is left after correction.

    python benchmarks/selection_simulation.py [--sweeps 300] [--configurations 20] [--items 200]

Simulates sweeps over right-or-wrong items whose seeds move a configuration's mean. Prints, in
points: the winner's gain as scored, corrected, its true gain, and how often p is below 0.05.
"""

from __future__ import annotations

import argparse

import numpy as np

from pktkit.statistics import FloatArray, corrected_gain, holm, paired_p_value

SETTINGS = ((1, 0.0), (2, 0.0), (3, 0.0), (2, 0.05), (2, 0.1))
"""Seeds, and by how much one configuration is better."""


def simulated(
    rng: np.random.Generator, configurations: int, seeds: int, items: int, better: float
) -> FloatArray:
    """Return scores `[configurations, seeds, items]`; the last configuration is better."""
    chance = 0.5 + rng.normal(0, 0.15, (1, 1, items))
    chance = chance + rng.normal(0, 0.03, (configurations, seeds, 1))
    chance[-1] += better
    return (rng.random(chance.shape) < chance).astype(float)


def one_sweep(scores: FloatArray, better: float) -> tuple[float, float, float, float]:
    """Return the winner's gain over the first configuration: as scored, corrected, true; and p."""
    differences = scores - scores[0]
    gains = differences.mean(axis=(1, 2))
    best = int(gains.argmax())
    corrected = corrected_gain(scores, scores[0], draws=200)
    assert corrected is not None
    p = 1.0
    if best:
        p = holm([paired_p_value(row, n_boot=999) for row in differences[1:]])[best - 1]
    return float(gains[best]), corrected, better * (best == len(scores) - 1), p


def main() -> None:
    """Print one line per setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=300)
    parser.add_argument("--configurations", type=int, default=20)
    parser.add_argument("--items", type=int, default=200)
    given = parser.parse_args()
    for seeds, better in SETTINGS:
        rng = np.random.default_rng(0)
        found = np.array(
            [
                one_sweep(simulated(rng, given.configurations, seeds, given.items, better), better)
                for _ in range(given.sweeps)
            ]
        )
        scored, corrected, true, _ = 100 * found.mean(axis=0)
        error = 100 * found[:, 1].std() / given.sweeps**0.5
        print(
            f"seeds {seeds}  better by {100 * better:g}  as scored {scored:.1f}  "
            f"corrected {corrected:.1f} ± {error:.1f}  true {true:.1f}  "
            f"p < 0.05 {(found[:, 3] < 0.05).mean():.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
