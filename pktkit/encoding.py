"""From items to token ids: templates, supervised positions, padded batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.tasks.base import Item

IGNORED = -100
"""Label of positions without supervision."""

Template = Callable[[Any, str, str], tuple[str, str]]
"""`(tokenizer, prompt, answer) -> (prefix, continuation)`; only the continuation is supervised."""


def _plain(tokenizer: Any, prompt: str, answer: str) -> tuple[str, str]:
    return prompt, f" {answer}"


def _tulu(tokenizer: Any, prompt: str, answer: str) -> tuple[str, str]:
    return f"<|user|>\n{prompt.strip()}\n<|assistant|>\n", answer.strip()


def _auto(tokenizer: Any, prompt: str, answer: str) -> tuple[str, str]:
    join = _chat if getattr(tokenizer, "chat_template", None) else _plain
    return join(tokenizer, prompt, answer)


def _chat(tokenizer: Any, prompt: str, answer: str) -> tuple[str, str]:
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError(
            "template 'chat' needs a tokenizer with a chat template; this one has none. "
            "Give --template plain or tulu, or take a protocol of the task that is no chat."
        )
    messages = [{"role": "user", "content": prompt}]
    prefix = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return prefix, answer.strip()


TEMPLATES: Mapping[str, Template] = {
    "plain": _plain,
    "tulu": _tulu,
    "chat": _chat,
    "auto": _auto,
}
"""`plain`: prompt, space, answer. `tulu`: the wrapping of the published evaluations
(`<|user|>` … `<|assistant|>`). `chat`: the tokenizer's own chat template. `auto`: that where the
tokenizer has one, else `plain`."""


def template(name: str) -> Template:
    """Return a template by name.

    Raises:
        UsageError: no such template.
    """
    if name not in TEMPLATES:
        raise unknown_name("template", name, TEMPLATES)
    return TEMPLATES[name]


@attrs.frozen
class EncodedItem:
    """Token ids of one item.

    Arguments:
        id: the item's id.
        input_ids: prefix and continuation, special tokens included.
        supervised: index of the first supervised token; all from there on are supervised.
        ends: whether the last token is the end-of-sequence token.
    """

    id: str
    input_ids: tuple[int, ...]
    supervised: int
    ends: bool

    @property
    def supervised_count(self) -> int:
        """How many tokens are supervised, the end-of-sequence token included."""
        return len(self.input_ids) - self.supervised


@attrs.frozen
class EncodedSplit:
    """All items of one split, encoded.

    Arguments:
        name: the split.
        items: encoded items in the split's order.
        truncated: how many items were cut at the length limit.
        dropped: ids of items whose prompt alone fills the limit.
    """

    name: str
    items: tuple[EncodedItem, ...]
    truncated: int = 0
    dropped: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Return a sha256 over all token ids and supervised positions."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(repr((item.input_ids, item.supervised)).encode())
        return digest.hexdigest()


@attrs.frozen(eq=False)
class Batch:
    """A right-padded batch.

    Arguments:
        rows: index of each sequence in its split.
        ids: each sequence's item id.
        input_ids, attention_mask: `[sequences, length]`.
        predicting: bool `[sequences, length]`, positions whose next token is supervised.
        gold: `[tokens]`, the supervised token after each predicting position, row-major.
        ending: bool `[tokens]`, predicting positions whose gold token ends the sequence.
        counts: predicting positions per sequence.
        padded: whether some sequence is shorter than the longest.
    """

    rows: tuple[int, ...]
    ids: tuple[str, ...]
    input_ids: Tensor
    attention_mask: Tensor
    predicting: Tensor
    gold: Tensor
    ending: Tensor
    counts: tuple[int, ...]
    padded: bool

    @property
    def tokens(self) -> int:
        """Tokens read, padding not counted."""
        return int(self.attention_mask.sum())


def encode_text(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the token ids of a text and the characters each stands for.

    What the tokenizer adds in front, such as the beginning-of-sequence token, is there once: not
    again where a chat template has already written it. What it adds behind is left out, so that
    the text can go on.
    """
    encoding = tokenizer(text, return_offsets_mapping=True)
    ids, offsets = list(encoding["input_ids"]), list(encoding["offset_mapping"])
    start = repeated_beginning(tokenizer, ids, offsets)
    ids, offsets = ids[start:], offsets[start:]
    while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and offsets[-1][0] == offsets[-1][1]:
        ids, offsets = ids[:-1], offsets[:-1]
    return ids, offsets


def repeated_beginning(
    tokenizer: Any, ids: Sequence[int], offsets: Sequence[tuple[int, int]]
) -> int:
    """Return 1 if the tokenizer began a text that has its beginning token written in it, else 0."""
    twice = len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id
    return int(twice and offsets[0][0] == offsets[0][1] and offsets[1][0] < offsets[1][1])


def encode_item(tokenizer: Any, item: Item, join: Template, max_length: int) -> EncodedItem | None:
    """Encode one item; None when its prompt alone fills `max_length`.

    The supervised span is found by character offsets in the joined text, because a prefix
    encoded alone may merge differently at the border. The end-of-sequence token is appended.
    """
    prefix, continuation = join(tokenizer, item.prompt, item.answer)
    ids, offsets = encode_text(tokenizer, prefix + continuation)
    border = len(prefix)
    supervised = next((i for i, (_, end) in enumerate(offsets) if end > border), len(ids))
    ends = tokenizer.eos_token_id is not None
    if ends:
        ids.append(tokenizer.eos_token_id)
    if supervised >= min(len(ids), max_length) or supervised == 0:
        return None
    return EncodedItem(
        item.id, tuple(ids[:max_length]), supervised, ends and len(ids) <= max_length
    )


def encode_split(
    tokenizer: Any, items: Iterable[Item], *, name: str, join: str, max_length: int
) -> EncodedSplit:
    """Encode a split.

    Raises:
        UsageError: no item of the split fits `max_length`.
    """
    encoded, dropped, truncated = [], [], 0
    for item in items:
        row = encode_item(tokenizer, item, template(join), max_length)
        if row is None:
            dropped.append(item.id)
            continue
        truncated += len(row.input_ids) == max_length and not row.ends
        encoded.append(row)
    if not encoded and not dropped:
        raise UsageError(f"split '{name}' has no items; it needs at least one row.")
    if not encoded:
        raise UsageError(
            f"split '{name}': none of its {len(dropped)} items leaves room for an answer within "
            f"{max_length} tokens."
        )
    return EncodedSplit(name, tuple(encoded), truncated, tuple(dropped))


def collate(split: EncodedSplit, rows: Sequence[int], *, pad_id: int, device: Any = "cpu") -> Batch:
    """Build a right-padded batch of the given rows of a split."""
    import torch

    items = [split.items[row] for row in rows]
    length = max(len(item.input_ids) for item in items)
    input_ids: list[list[int]] = []
    attention_mask: list[list[int]] = []
    predicting: list[list[bool]] = []
    gold: list[int] = []
    ending: list[bool] = []
    for item in items:
        count = len(item.input_ids)
        rest = length - count
        input_ids.append([*item.input_ids, *[pad_id] * rest])
        attention_mask.append([1] * count + [0] * rest)
        before, supervised = item.supervised - 1, item.supervised_count
        predicting.append([False] * before + [True] * supervised + [False] * (rest + 1))
        gold.extend(item.input_ids[item.supervised :])
        ending.extend([False] * (supervised - 1) + [item.ends])
    return Batch(
        rows=tuple(rows),
        ids=tuple(item.id for item in items),
        input_ids=torch.tensor(input_ids, device=device),
        attention_mask=torch.tensor(attention_mask, device=device),
        predicting=torch.tensor(predicting, device=device),
        gold=torch.tensor(gold, device=device),
        ending=torch.tensor(ending, device=device),
        counts=tuple(item.supervised_count for item in items),
        padded=any(len(item.input_ids) < length for item in items),
    )


def padding_id(tokenizer: Any) -> int:
    """Return the id used for padding; masked positions never reach a loss, so any id serves."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0):
        if candidate is not None:
            return int(candidate)
    return 0
