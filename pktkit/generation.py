"""Greedy generation and likelihoods of continuations, batched, for any causal language model."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.encoding import (
    EncodedItem,
    EncodedSplit,
    collate,
    encode_item,
    encode_text,
    padding_id,
    template,
)
from pktkit.errors import UsageError
from pktkit.recording import forward, record
from pktkit.tasks.base import Item

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pktkit.pair import LoadedModel

BATCH_TOKENS = 8192
"""Tokens of a batch, padding and room for new tokens included."""

BATCH_ROWS = 512
"""Sequences of a batch, however short they are."""

_UNLIMITED = 1 << 30


@attrs.frozen
class Continuation:
    """How likely a model finds a continuation of a prompt.

    Arguments:
        logprob: natural logarithm of its probability, summed over its tokens.
        tokens: how many tokens it has.
    """

    logprob: float
    tokens: int


def generate(
    model: LoadedModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    join: str = "plain",
    batch_tokens: int = BATCH_TOKENS,
) -> list[str]:
    """Continue prompts greedily; each answer is what the prompt alone would have given.

    Prompts are sorted by length, padded on the left, and leave the batch when they end: at an
    end-of-sequence token, after `max_new_tokens`, or at the model's last position.

    Arguments:
        model: with its tokenizer; training mode is put back afterwards.
        prompts: as in `Item.prompt`.
        max_new_tokens: most tokens of one answer, the end-of-sequence token included.
        join: template that wraps the prompt, see `pktkit.encoding.TEMPLATES`.
        batch_tokens: tokens per batch, padding and room for new tokens included.

    Returns:
        One text per prompt, in the order given, without special tokens and outer white space.

    Raises:
        UsageError: `max_new_tokens` is not positive, a prompt has no tokens, or a prompt fills
            all positions of the model.
    """
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
    rows = [_encode_prefix(model.tokenizer, prompt, join) for prompt in prompts]
    limit = context_limit(model.model)
    _check_lengths(rows, limit)
    answers: list[list[int]] = [[] for _ in rows]
    with _evaluating(model.model):
        for chosen in _batches([len(row) for row in rows], max_new_tokens, batch_tokens):
            budgets = [min(max_new_tokens, limit - len(rows[i])) for i in chosen]
            new = _decode(model, [rows[i] for i in chosen], budgets)
            for i, ids in zip(chosen, new, strict=True):
                answers[i] = ids
    decode = model.tokenizer.decode
    return [str(decode(ids, skip_special_tokens=True)).strip() for ids in answers]


def continuation_logprobs(
    model: LoadedModel,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    join: str = "plain",
    batch_tokens: int = BATCH_TOKENS,
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
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[Continuation]]:
    """Score the choices of each prompt by likelihood, the end-of-sequence token not counted.

    Prompt and choice are encoded together and the choice's tokens found by character offsets, as
    in training. Choices of one token share a single pass over their prompt.

    Arguments:
        model: with its tokenizer; training mode is put back afterwards.
        prompts: as in `Item.prompt`.
        choices: the continuations of each prompt, as in `Item.choices`.
        join: template that joins prompt and choice.
        batch_tokens: tokens per batch, padding included.

    Returns:
        For each prompt, one `Continuation` per choice, in the order given.

    Raises:
        UsageError: a choice has no tokens, or prompt and choice exceed the model's positions.
    """
    limit = context_limit(model.model)
    encoded = [
        [_encode_choice(model.tokenizer, prompt, choice, join, limit) for choice in row]
        for prompt, row in zip(prompts, choices, strict=True)
    ]
    # The last token is never read, so choices that differ in it alone are one context.
    contexts: dict[tuple[tuple[int, ...], int], list[EncodedItem]] = {}
    for row in encoded:
        for item in row:
            contexts.setdefault((item.input_ids[:-1], item.supervised), []).append(item)
    groups = list(contexts.values())
    found: dict[tuple[tuple[int, ...], int], float] = {}
    with _evaluating(model.model):
        for chosen in _batches([len(group[0].input_ids) for group in groups], 0, batch_tokens):
            found |= _likelihoods(model, [groups[i] for i in chosen])
    return [
        [
            Continuation(found[item.input_ids, item.supervised], item.supervised_count)
            for item in row
        ]
        for row in encoded
    ]


def context_limit(model: Any) -> int:
    """Return how many positions a model has; a very large number when it does not say."""
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else _UNLIMITED


def end_ids(model: LoadedModel) -> frozenset[int]:
    """Return the ids that end an answer.

    They are the tokenizer's end-of-sequence token and those of the model's generation
    configuration that the tokenizer knows as special (chat models often have several).
    """
    own = model.tokenizer.eos_token_id
    settings = getattr(model.model, "generation_config", None)
    configured = getattr(settings, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    special = set(model.tokenizer.all_special_ids)
    return frozenset({own, *(i for i in listed if i in special)} - {None})


def _encode_prefix(tokenizer: Any, prompt: str, join: str) -> list[int]:
    """Encode what precedes an answer, without special tokens that close a text."""
    prefix, _ = template(join)(tokenizer, prompt, "")
    return encode_text(tokenizer, prefix)[0]


def _encode_choice(tokenizer: Any, prompt: str, choice: str, join: str, limit: int) -> EncodedItem:
    """Encode prompt and choice as a training row, without the end-of-sequence token."""
    row = encode_item(tokenizer, Item("choice", prompt, choice), template(join), _UNLIMITED)
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


def _check_lengths(rows: Sequence[Sequence[int]], limit: int) -> None:
    for index, row in enumerate(rows):
        if not row:
            raise UsageError(f"prompt {index} has no tokens; give it text or a BOS token.")
        if len(row) >= limit:
            raise UsageError(
                f"prompt {index} has {len(row)} tokens and leaves no room for an answer: the "
                f"model has {limit} positions. Shorten the prompt."
            )


def _batches(lengths: Sequence[int], room: int, batch_tokens: int) -> Iterator[list[int]]:
    """Yield indices, longest first, so that a batch's first row gives its padded length."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = max(1, min(BATCH_ROWS, batch_tokens // (lengths[order[start]] + room)))
        yield order[start : start + size]
        start += size


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off, and training mode back on if it was on."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _decode(
    model: LoadedModel, rows: Sequence[list[int]], budgets: Sequence[int]
) -> list[list[int]]:
    """Continue one batch greedily; row `i` gets at most `budgets[i]` tokens.

    The key-value cache is cut down to the rows that are still going.
    """
    import torch

    ends = end_ids(model)
    device = next(model.model.parameters()).device
    input_ids, mask = _left_padded(rows, padding_id(model.tokenizer), device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    answers: list[list[int]] = [[] for _ in rows]
    going = list(range(len(rows)))
    cache, cache_name = None, _cache_name(model.model)
    while going:
        output = model.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=max(budgets) > 1,
            logits_to_keep=1,
            **{cache_name: cache},
        )
        best = output.logits[:, -1].argmax(-1)
        stay = []
        for place, (row, token) in enumerate(zip(going, best.tolist(), strict=True)):
            if token not in ends:
                answers[row].append(token)
                if len(answers[row]) < budgets[row]:
                    stay.append(place)
        cache = getattr(output, cache_name)
        if len(stay) < len(going):
            going = [going[place] for place in stay]
            if not going:
                break
            kept = torch.tensor(stay, device=device)
            cache.batch_select_indices(kept)
            best, mask, positions = best[kept], mask[kept], positions[kept]
        input_ids = best[:, None]
        mask = torch.cat([mask, mask.new_ones(len(going), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return answers


def _cache_name(model: nn.Module) -> str:
    """Return what this version of transformers calls the key-value cache."""
    parameters = inspect.signature(model.forward).parameters
    return "cache" if "cache" in parameters else "past_key_values"


def _left_padded(rows: Sequence[list[int]], pad_id: int, device: Any) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask `[sequences, length]`, padded on the left."""
    import torch

    length = max(map(len, rows))
    input_ids = torch.tensor([[pad_id] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return input_ids.to(device), mask.to(device)


def _likelihoods(
    model: LoadedModel, groups: Sequence[list[EncodedItem]]
) -> dict[tuple[tuple[int, ...], int], float]:
    """Return the log-likelihood of every item; the items of a group differ in the last token."""
    import torch

    split = EncodedSplit("choices", tuple(group[0] for group in groups))
    device = next(model.model.parameters()).device
    batch = collate(split, range(len(groups)), pad_id=padding_id(model.tokenizer), device=device)
    with record(model.anatomy, (), batch):
        logits = forward(model.model, batch)
    found = {}
    for group, part in zip(groups, logits.split(batch.counts), strict=True):
        logprobs = part.float().log_softmax(-1)
        for item in group:
            gold = torch.tensor(item.input_ids[item.supervised :], device=device)
            total = logprobs.gather(1, gold[:, None]).sum()
            found[item.input_ids, item.supervised] = float(total)
    return found


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
