"""A pair as it will be, before any weight is read; what components ask of it.

A component may have a method

    def check(self, prospect: Prospect) -> None

that raises the `PktkitError` which running it would raise on account of the pair or of its
options; `pktkit inspect` and `pktkit plan` call it. An error's `needs` says in a few words what
would help. A component that takes every pair declares `Capabilities(any_pair=True)` instead.
"""

from __future__ import annotations

import attrs

from pktkit.errors import PairIncompatibleError
from pktkit.pair import ModelPair
from pktkit.quantised import packed


@attrs.frozen(eq=False)
class Prospect:
    """Two models without weights, and how the source would be kept.

    Arguments:
        pair: configurations, tokenizers and anatomies; parameters have shapes but no values.
        source_quant: `"8bit"` or `"4bit"` for a packed source; else `"none"`.
        source_spread: whether the source is laid over several devices and host memory.
        source_written: whether the source is what `pktkit states write` made, without weights.
    """

    pair: ModelPair
    source_quant: str = "none"
    source_spread: bool = False
    source_written: bool = False

    def require_model(self, who: str) -> None:
        """Refuse a source of which only readings were kept.

        Raises:
            PairIncompatibleError: it is one.
        """
        if self.source_written:
            raise PairIncompatibleError(
                f"{who} needs the source's weights, but the source is what 'pktkit states write' "
                "made. Give the model itself as --source.",
                needs="the source itself",
            )

    def require_weights(self, who: str) -> None:
        """Refuse a source whose weights, or their gradients, will not be at hand whole.

        Arguments:
            who: the method that needs them, for the message.

        Raises:
            PairIncompatibleError: the source is packed, spread over devices, or not there.
        """
        self.require_model(who)
        if self.source_quant != "none":
            raise packed(who)
        if self.source_spread:
            raise PairIncompatibleError(
                f"{who} needs every weight of the source in memory, but --source-device spread "
                "may leave some in host memory or on disk. Name one device, or choose a strategy "
                "that only reads states.",
                needs="--source-device with one device",
            )
