"""How likely a model finds given continuations of a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.activations.recording import forward, record
from pktkit.encoding import (
    EncodedItem,
    EncodedSplit,
    collate,
    encode_item,
    padding_id,
    template,
)
from pktkit.errors import UsageError
from pktkit.inference.batching import Load, evaluating, run_in_batches
from pktkit.inference.prefixes import CachedReader, keeps_prefixes, right_padded
from pktkit.tasks.base import Item

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.pair import LoadedModel

UNLIMITED = 1 << 30
"""Positions of a model that does not say how many it has."""

Key = tuple[tuple[int, ...], int]
"""What a likelihood depends on: token ids, and where the continuation begins."""


@attrs.frozen
class Continuation:
    """How likely a model finds a continuation of a prompt.

    Arguments:
        logprob: natural logarithm of its probability, summed over its tokens.
        tokens: how many tokens it has.
    """

    logprob: float
    tokens: int


def continuation_logprobs(
    model: LoadedModel,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    join: str = "plain",
    batch_tokens: int | None = None,
) -> list[list[float]]:
    """Return the summed log-likelihood of each choice given its prompt.

    Arguments and errors as in `score_continuations`.
    """
    scored = score_continuations(model, prompts, choices, join=join, batch_tokens=batch_tokens)
    return [[continuation.logprob for continuation in row] for row in scored]


def score_continuations(
    model: LoadedModel,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    join: str = "plain",
    batch_tokens: int | None = None,
    share_prefixes: bool = True,
) -> list[list[Continuation]]:
    """Score the choices of each prompt by likelihood, the end-of-sequence token not counted.

    Prompt and choice are encoded together and the choice's tokens found by character offsets, as
    in training. What the choices of a prompt have in common is read once, and the rest of every
    choice from there, on a copy of the key-value cache.

    Arguments:
        model: with its tokenizer; training mode is put back afterwards.
        prompts: as in `Item.prompt`.
        choices: the continuations of each prompt, as in `Item.choices`.
        join: template that joins prompt and choice.
        batch_tokens: tokens per batch, padding included; None for what suits the device.
        share_prefixes: False reads every choice from its first token, which gives the same and
            takes longer. Models with a running state instead of keys and values are read so.

    Returns:
        For each prompt, one `Continuation` per choice, in the order given.

    Raises:
        UsageError: a choice has no tokens, or prompt and choice exceed the model's positions.
        DoesNotFitError: memory runs out for the choices of a single prompt.
    """
    limit = context_limit(model.model)
    encoded = [
        [_encode_choice(model.tokenizer, prompt, choice, join, limit) for choice in row]
        for prompt, row in zip(prompts, choices, strict=True)
    ]
    groups = [Group.of(row) for row in encoded if row]
    together = share_prefixes and keeps_prefixes(model.model)
    shared = [group for group in groups if together and group.worthwhile]
    alone = [group for group in groups if not (together and group.worthwhile)]
    found: dict[Key, float] = {}
    with evaluating(model.model):
        _run_shared(model, shared, found, batch_tokens)
        _run_alone(model, [i for group in alone for i in group.items], found, batch_tokens)
    return [[Continuation(found[_key(i)], i.supervised_count) for i in row] for row in encoded]


def context_limit(model: Any) -> int:
    """Return how many positions a model has; a very large number when it does not say."""
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else UNLIMITED


@attrs.frozen(eq=False)
class Group:
    """Choices of one prompt.

    Arguments:
        items: the encoded choices.
        prefix: how many tokens they have in common, of those that precede every supervised one.
        tails: what is read after the prefix, without the last token, which is never read; each
            different one once. A choice that ends with the token after the prefix has none.
    """

    items: tuple[EncodedItem, ...]
    prefix: int
    tails: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, items: Sequence[EncodedItem]) -> Group:
        """Find what the items have in common."""
        columns = zip(*(item.input_ids for item in items), strict=False)
        common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
        prefix = min(common, *(item.supervised for item in items))
        tails = dict.fromkeys(item.input_ids[prefix:-1] for item in items)
        return cls(tuple(items), prefix, tuple(tail for tail in tails if tail))

    @property
    def worthwhile(self) -> bool:
        """Whether there is a prefix to read once for several readings."""
        return self.prefix > 0 and len({item.input_ids[:-1] for item in self.items}) > 1

    @property
    def load(self) -> Load:
        """What the group puts into a batch: the cache is copied for every tail."""
        longest = max((len(tail) for tail in self.tails), default=0)
        return Load(self.prefix + longest, max(1, len(self.tails)), longest + 1)


def _run_shared(
    model: LoadedModel, groups: Sequence[Group], found: dict[Key, float], batch_tokens: int | None
) -> None:
    """Find the likelihoods of all items of groups with a prefix."""

    def run(chosen: list[int]) -> None:
        found.update(_from_prefixes(model, [groups[i] for i in chosen]))

    loads = [group.load for group in groups]
    run_in_batches(model, loads, run, batch_tokens=batch_tokens)


def _from_prefixes(model: LoadedModel, groups: Sequence[Group]) -> dict[Key, float]:
    """Read prefixes, then tails; return the likelihood of every item."""
    reader = CachedReader(model, [group.items[0].input_ids[: group.prefix] for group in groups])
    owners = [number for number, group in enumerate(groups) for _ in group.tails]
    tails = [tail for group in groups for tail in group.tails]
    first = _logprobs(reader.start(go_on=bool(tails)))
    after: dict[tuple[int, tuple[int, ...]], Tensor] = {}
    if tails:
        reader.keep(owners)
        ids, mask = right_padded(tails, padding_id(model.tokenizer), first.device)
        parts = reader.read(ids, mask).split([len(tail) for tail in tails])
        after = dict(zip(zip(owners, tails, strict=True), parts, strict=True))
    found = {}
    for number, group in enumerate(groups):
        for item in group.items:
            tail = item.input_ids[group.prefix : -1]
            rows = [first[number : number + 1]]
            rows += [_logprobs(after[number, tail])] if tail else []
            found[_key(item)] = _total(rows, item, item.supervised - group.prefix)
    return found


def _run_alone(
    model: LoadedModel,
    items: Iterable[EncodedItem],
    found: dict[Key, float],
    batch_tokens: int | None,
) -> None:
    """Find the likelihoods of items that share nothing but, perhaps, all that is read of them."""
    contexts: dict[Key, list[EncodedItem]] = {}
    for item in items:
        # the last token is never read, so choices that differ in it alone are one context
        contexts.setdefault((item.input_ids[:-1], item.supervised), []).append(item)
    groups = list(contexts.values())

    def run(chosen: list[int]) -> None:
        found.update(_likelihoods(model, [groups[i] for i in chosen]))

    loads = [Load(len(g[0].input_ids), predictions=g[0].supervised_count) for g in groups]
    run_in_batches(model, loads, run, batch_tokens=batch_tokens)


def _likelihoods(model: LoadedModel, groups: Sequence[list[EncodedItem]]) -> dict[Key, float]:
    """Return the likelihood of every item; the items of a group differ in the last token."""
    split = EncodedSplit("choices", tuple(group[0] for group in groups))
    device = next(model.model.parameters()).device
    batch = collate(split, range(len(groups)), pad_id=padding_id(model.tokenizer), device=device)
    with record(model.anatomy, (), batch):
        logits = forward(model.model, batch)
    found = {}
    for group, part in zip(groups, logits.split(batch.counts), strict=True):
        logprobs = _logprobs(part)
        for item in group:
            found[_key(item)] = _total([logprobs], item, 0)
    return found


def _logprobs(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1)


def _total(rows: Sequence[Tensor], item: EncodedItem, skipped: int) -> float:
    """Sum the log-probabilities of an item's supervised tokens.

    Arguments:
        rows: log-probabilities `[tokens, V]`, in parts.
        skipped: how many of the tokens precede the supervised ones.
    """
    import torch

    logprobs = torch.cat(list(rows))[skipped:]
    gold = torch.tensor(item.input_ids[item.supervised :], device=logprobs.device)
    return float(logprobs.gather(1, gold[:, None]).double().sum())


def _key(item: EncodedItem) -> Key:
    return item.input_ids, item.supervised


def _encode_choice(tokenizer: Any, prompt: str, choice: str, join: str, limit: int) -> EncodedItem:
    """Encode prompt and choice as a training row, without the end-of-sequence token."""
    row = encode_item(tokenizer, Item("choice", prompt, choice), template(join), UNLIMITED)
    count = 0 if row is None else row.supervised_count - row.ends
    if row is None or count == 0:
        raise UsageError(f"choice {choice!r} of prompt {_short(prompt)} has no tokens to score.")
    ids = row.input_ids[: row.supervised + count]
    if len(ids) > limit:
        raise UsageError(
            f"prompt {_short(prompt)} with choice {choice!r} has {len(ids)} tokens, but the model "
            f"has {limit} positions. Shorten the prompt."
        )
    return EncodedItem(row.id, ids, row.supervised, ends=False)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
