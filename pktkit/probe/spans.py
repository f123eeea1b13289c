"""How much of a text each token of a tokenizer has read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.encoding import repeated_beginning, template
from pktkit.vocabulary import surfaces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pktkit.tasks.base import Item


@attrs.frozen
class ReadText:
    """One text as a tokenizer cuts it.

    Ends count UTF-8 bytes from where the answer begins, so that they compare across models even
    where a chat template words the prompt differently. They never fall from token to token.

    Arguments:
        ids: token ids, special tokens included, up to the last token of text.
        least: bytes a state at each token has read at least, `len(ids)` of them.
        most: bytes it has read at most; differs from `least` only inside a character whose bytes
            cannot be told apart.
    """

    ids: tuple[int, ...]
    least: tuple[int, ...]
    most: tuple[int, ...]


@attrs.frozen(eq=False)
class TextReader:
    """Cuts texts with one tokenizer.

    Arguments:
        tokenizer: a fast tokenizer.
    """

    tokenizer: PreTrainedTokenizerBase
    _surfaces: Mapping[int, bytes] = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_surfaces", surfaces(self.tokenizer))

    def read(self, item: Item, join: str) -> ReadText:
        """Cut an item's prompt and answer, joined by a named template."""
        prefix, continuation = template(join)(self.tokenizer, item.prompt, item.answer)
        text = prefix + continuation
        encoding = self.tokenizer(
            text, return_offsets_mapping=True, return_special_tokens_mask=True
        )
        special = encoding["special_tokens_mask"]
        count = max((i + 1 for i, mask in enumerate(special) if not mask), default=len(special))
        ids, offsets = encoding["input_ids"][:count], encoding["offset_mapping"][:count]
        start = repeated_beginning(self.tokenizer, ids, offsets)
        ids, offsets = ids[start:], offsets[start:]
        known = [self._surfaces.get(i) for i in ids]
        ends = byte_ends(text, offsets, known)
        border = len(prefix.encode())
        least, most = (
            tuple(end - border for end in itertools.accumulate(side, max)) for side in ends
        )
        return ReadText(tuple(ids), least, most)


def byte_ends(
    text: str, offsets: Sequence[tuple[int, int]], known: Sequence[bytes | None]
) -> tuple[list[int], list[int]]:
    """Return how many bytes of the text each token has read, at least and at most.

    Offsets count characters, and they lie in two ways that matter here: several tokens of one
    character all claim its end, and some tokenizers trim spaces off a token's span. The surfaces
    set both right.

    Arguments:
        text: what was encoded.
        offsets: begin and end of each token, in characters.
        known: surface of each token, None for tokens that have none.
    """
    raw = text.encode()
    at = [0, *itertools.accumulate(len(character.encode()) for character in text)]
    spans = [(at[begin], at[end]) for begin, end in offsets]
    least: list[int] = []
    most: list[int] = []
    for run in _runs(spans):
        begin, end = spans[run[0]][0], max(spans[i][1] for i in run)
        parts = [known[i] or b"" for i in run]
        end += _trimmed(raw, begin, end, b"".join(parts))
        if b"".join(parts).endswith(raw[begin:end]):
            sizes = [len(part) for part in parts[1:]]
            exact = [max(begin, end - sum(sizes[i:])) for i in range(len(run))]
            least += exact
            most += exact
        else:
            least += [*(spans[i][0] for i in run[1:]), end]
            most += [*(spans[i][1] for i in run[:-1]), end]
    return least, most


def _runs(spans: Sequence[tuple[int, int]]) -> Iterator[range]:
    """Yield groups of consecutive tokens whose spans overlap."""
    start = 0
    for i in range(1, len(spans) + 1):
        if i == len(spans) or not (spans[i][0] < spans[i - 1][1] and spans[i][0] < spans[i][1]):
            yield range(start, i)
            start = i


def _trimmed(raw: bytes, begin: int, end: int, surface: bytes) -> int:
    """Return how many trailing spaces of a surface were trimmed off the span it was found at."""
    core = surface.strip(b" ")
    tail = len(surface) - len(surface.rstrip(b" "))
    if core and raw[begin:end] == core and raw[end : end + tail] == b" " * tail:
        return tail
    return 0
