"""Where a source with another tokenizer reads the states that stand beside the target's.

Both models read the same prompt and answer, each in its own tokens. The target's state at a
predicting position has read the text up to some byte; the source's counterpart is its last token
that has read no further. It may know less than the target, but it never has seen more of the
answer.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.encoding import EncodedItem, EncodedSplit, encode_item, padding_id, template
from pktkit.probe.spans import ReadText, TextReader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pktkit.tasks.base import Item


@attrs.frozen(eq=False)
class AlignedPositions:
    """The source's rows, and which of their positions stand beside the target's.

    Arguments:
        split: the source's rows, in the order of the target's; each holds text up to the last
            position that is read, and one closing token that never is.
        picks: for every row, one index per predicting position of the target, among the
            predicting positions of the source's row; ascending, repeated where the source has
            fewer tokens.
        exact: positions at which both models have read exactly as much.
        opened: rows that got the source's beginning token in front, because its first token
            already reads on where the target has read nothing.
        cut: rows whose source tokens exceed the length limit; later positions read the last one.
    """

    split: EncodedSplit
    picks: Sequence[Sequence[int]]
    exact: int
    opened: int
    cut: int

    @property
    def exact_share(self) -> float:
        """Share of the target's predicting positions at which both have read exactly as much."""
        return self.exact / max(1, sum(map(len, self.picks)))


def align_positions(
    source: PreTrainedTokenizerBase,
    target: PreTrainedTokenizerBase,
    items: Iterable[Item],
    *,
    name: str,
    join: str,
    max_length: int,
) -> AlignedPositions:
    """Lay the source's tokens beside the predicting positions of the target.

    Each model reads the template as its own tokenizer fills it; ends are compared from the
    beginning of the answer on. The position before the end-of-sequence token has read the whole
    text. Items that `encode_split` drops are dropped here.

    Arguments:
        source, target: fast tokenizers.
        items: the items that the target's split was encoded from.
        name, join, max_length: see `encode_split`; the limit holds for both models.

    Raises:
        PairIncompatibleError: a tokenizer is not a fast one.
        UsageError: the template does not fit a tokenizer.
    """
    reader, other = TextReader(source), TextReader(target)
    rows: list[_Row] = []
    for item in items:
        encoded = encode_item(target, item, template(join), max_length)
        if encoded is None:
            continue
        wanted = _wanted(encoded, other.read(item, join))
        rows.append(_row(source, item.id, reader.read(item, join), wanted, max_length))
    return AlignedPositions(
        EncodedSplit(name, tuple(row.item for row in rows)),
        [row.picks for row in rows],
        exact=sum(row.exact for row in rows),
        opened=sum(row.opened for row in rows),
        cut=sum(row.cut for row in rows),
    )


@attrs.frozen
class _Row:
    """One row of `AlignedPositions`."""

    item: EncodedItem
    picks: tuple[int, ...]
    exact: int
    opened: bool
    cut: bool


def _wanted(encoded: EncodedItem, read: ReadText) -> list[int | None]:
    """Return what the target has read at its predicting positions; None for the whole text."""
    predicting = range(encoded.supervised - 1, len(encoded.input_ids) - 1)
    # Special tokens that a tokenizer puts behind the text have read what its last token has.
    ends: list[int | None] = [read.least[min(i, len(read.least) - 1)] for i in predicting]
    if encoded.ends:
        ends[-1] = None
    return ends


def _row(
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    read: ReadText,
    wanted: Sequence[int | None],
    max_length: int,
) -> _Row:
    """Choose the source's position for every end that is wanted."""
    ids, ends = list(read.ids), list(read.most)
    picks = [len(ids) - 1 if w is None else bisect.bisect_right(ends, w) - 1 for w in wanted]
    exact = [w is None or (i >= 0 and ends[i] == w) for i, w in zip(picks, wanted, strict=True)]
    opened = picks[0] < 0
    if opened:
        ids.insert(0, _beginning(tokenizer))
        picks = [i + 1 for i in picks]
    last = max_length - 2
    cut = picks[-1] > last
    exact = [same and i <= last for same, i in zip(exact, picks, strict=True)]
    picks = [min(i, last) for i in picks]
    ends_text = tokenizer.eos_token_id is not None
    closing = tokenizer.eos_token_id if ends_text else padding_id(tokenizer)
    item = EncodedItem(name, (*ids[: picks[-1] + 1], closing), picks[0] + 1, ends_text)
    return _Row(item, tuple(i - picks[0] for i in picks), sum(exact), opened, cut)


def _beginning(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token a text may begin with: bos, else what separates documents."""
    for candidate in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return padding_id(tokenizer)
