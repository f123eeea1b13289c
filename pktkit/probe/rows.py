"""The rows of a task as both models of a pair read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from pktkit.encoding import EncodedSplit, encode_split
from pktkit.probe.positions import AlignedPositions, align_positions
from pktkit.values import Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pktkit.pair import ModelPair
    from pktkit.settings import ProbeSettings
    from pktkit.tasks.base import Item, Task

log = structlog.get_logger(__name__)


class PairRows:
    """The rows of a task in the tokens of either model, each split encoded once.

    Arguments:
        pair: whose tokenizers encode.
        task: its items and template.
        settings: limits on rows and tokens.
    """

    def __init__(self, pair: ModelPair, task: Task, settings: ProbeSettings) -> None:
        self._pair = pair
        self._task = task
        self._settings = settings
        self._encoded: dict[tuple[str, Origin], EncodedSplit] = {}
        self._positions: dict[str, AlignedPositions] = {}

    def items(self, split: str) -> Sequence[Item]:
        """Return the items of a split within the limit."""
        return self._task.items(split)[: self._settings.row_limit]

    def encoded(self, split: str, origin: Origin) -> EncodedSplit:
        """Return a split's token ids by the tokenizer of one of the models."""
        if (split, origin) not in self._encoded:
            self._encoded[split, origin] = encode_split(
                self._pair.model(origin).tokenizer,
                self.items(split),
                name=split,
                join=self._task.template,
                max_length=self._settings.max_length,
            )
        return self._encoded[split, origin]

    def positions(self, split: str) -> AlignedPositions:
        """Return where a source with another tokenizer is read, beside the target's positions.

        Raises:
            PairIncompatibleError: a tokenizer is not a fast one.
            UsageError: no item of the split fits, or the source has no chat template.
        """
        if split not in self._positions:
            self.encoded(split, Origin.TARGET)  # says so if no item fits
            found = align_positions(
                self._pair.source.tokenizer,
                self._pair.target.tokenizer,
                self.items(split),
                name=split,
                join=self._task.template,
                max_length=self._settings.max_length,
            )
            log.info(
                "tokenizers differ, source states are read at the nearest earlier position",
                split=split,
                exact=f"{found.exact_share:.1%}",
                rows_opened=found.opened,
                rows_cut=found.cut,
            )
            self._positions[split] = found
        return self._positions[split]

    def foreign(self, origin: Origin) -> bool:
        """Whether the model that is read cuts text in other tokens than the target."""
        return origin is Origin.SOURCE and not self._pair.tokenizers.same

    def read(self, split: str, origin: Origin) -> EncodedSplit:
        """Return the rows that a forward pass reads; row i always is the target's row i."""
        if self.foreign(origin):
            return self.positions(split).split
        return self.encoded(split, Origin.TARGET)

    @property
    def notes(self) -> list[str]:
        """What the length limit did to the rows encoded so far, a sentence per split."""
        return [
            f"task '{self._task.name}', split '{split.name}': of {count} rows {split.truncated} "
            f"were cut at {self._settings.max_length} tokens, and {len(split.dropped)} dropped "
            "because the prompt alone fills them. Raise --max-length to keep them whole."
            for split in dict.fromkeys(self._encoded.values())
            if (count := len(split.items) + len(split.dropped))
            and (split.truncated or split.dropped)
        ]
