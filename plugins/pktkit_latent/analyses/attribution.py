"""`attribution`: which source blocks matter for a task, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators

from pktkit import plotting
from pktkit.analysis import AnalysisResult, Table
from pktkit.options import option
from pktkit.outcomes import Figure
from pktkit_latent.analyses.common import titled
from pktkit_latent.matchers import SATURATED_LOSS
from pktkit_latent.matchers.stability import attribution_stability

if TYPE_CHECKING:
    from pktkit.analysis import AnalysisContext


@attrs.frozen
class AttributionOptions:
    """Settings of the analysis."""

    split: str = option("extract", "Split whose loss is attributed to the source's blocks.")
    resamples: int = option(1000, "Bootstrap resamples of items.", validator=validators.ge(10))
    seed: int | None = option(None, "Of the resamples; null takes the run's seed.")


class Attribution:
    """Gradient × activation of the source's blocks (Captum's Layer Gradient × Activation).

    One score per block, summed over tokens and channels and averaged over items; what the
    `attribution` matcher chooses its critical block by (arXiv 2510.24208).
    """

    Options = AttributionOptions

    def __init__(self, options: AttributionOptions) -> None:
        self.options = options

    def analyse(self, context: AnalysisContext) -> AnalysisResult:
        """Return bars with 95 % bootstrap intervals over items.

        Raises:
            NonFiniteError: an item's loss or gradient is not finite.
        """
        scores = context.probe.attribution(self.options.split)
        stability = attribution_stability(scores, self.options.resamples, self.options.seed or 0)
        data = {
            "split": self.options.split,
            "items": stability.items,
            "resamples": stability.resamples,
            "loss": float(context.probe.source_loss(self.options.split).mean()),
            "critical": stability.critical,
            "mean": list(stability.mean),
            "low": list(stability.low),
            "high": list(stability.high),
            "win_share": list(stability.wins),
        }
        return AnalysisResult(
            title="Attribution of the source's layers",
            markdown=_words(data),
            data=data,
            figures=(_figure(data, context.pair.source.name),),
            table=_table(data),
        )


def _score(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _words(data: Mapping[str, Any]) -> str:
    critical = data["critical"]
    text = (
        "Gradient × activation of each source block's output for the answer's loss, averaged over "
        f"{data['items']} items of split `{data['split']}`, with 95 % bootstrap intervals over "
        f"items ({data['resamples']} resamples). Block {critical} has the largest absolute score, "
        f"and in {100 * data['win_share'][critical]:.0f} % of the resamples too. Mean loss: "
        f"{data['loss']:.2g} nats."
    )
    if data["loss"] < SATURATED_LOSS:
        text += " So close to 0, gradients are close to noise, and so is the choice of a block."
    return text


def _figure(data: Mapping[str, Any], model: str) -> Figure:
    shares = [f"{100 * share:.0f} %" for share in data["win_share"]]
    png = plotting.bars(
        data["mean"],
        data["low"],
        data["high"],
        names=[str(block) for block in range(len(shares))],
        notes=shares,
        label="gradient × activation, mean over items",
        title=f"blocks of the {titled('source', model)}",
    )
    return Figure(
        "bars",
        png,
        "Attribution per source block with 95 % interval; at the right, how often the block is "
        "the most important one of a resample.",
        f"Bars, one per source block; block {data['critical']} is the largest in absolute value.",
    )


def _table(data: Mapping[str, Any]) -> Table:
    rows = [
        (str(block), _score(mean), _score(low), _score(high), f"{100 * share:.0f} %")
        for block, (mean, low, high, share) in enumerate(
            zip(data["mean"], data["low"], data["high"], data["win_share"], strict=True)
        )
    ]
    return Table(("source block", "score", "low", "high", "largest in"), rows)
