"""Generation, batched, for any causal language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.encoding import encode_text, template
from pktkit.errors import UsageError
from pktkit.inference.batching import BATCH_ROWS, BATCH_TOKENS, Load, evaluating, run_in_batches
from pktkit.inference.likelihood import (
    Continuation,
    context_limit,
    continuation_logprobs,
    score_continuations,
)
from pktkit.inference.prefixes import CachedReader
from pktkit.inference.sampling import GREEDY, Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.pair import LoadedModel

__all__ = [
    "BATCH_ROWS",
    "BATCH_TOKENS",
    "Continuation",
    "context_limit",
    "continuation_logprobs",
    "end_ids",
    "generate",
    "score_continuations",
]

Pick = Callable[["Tensor", Sequence[int]], "Tensor"]
"""`(logits [rows, V], which rows they are) -> next token ids [rows]`."""


def generate(
    model: LoadedModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    join: str = "plain",
    begins: Sequence[str] = (),
    stop: Sequence[str] = (),
    strip: bool = True,
    sampling: Sampling = GREEDY,
    batch_tokens: int | None = None,
) -> list[str]:
    """Continue prompts; each answer is what the prompt alone would have given.

    Prompts are sorted by length, padded on the left, and leave the batch when they end: at an
    end-of-sequence token, at a stop string, after `max_new_tokens`, or at the model's last
    position. Batches are as large as memory allows and are halved when it runs out.

    Arguments:
        model: with its tokenizer; training mode is put back afterwards.
        prompts: as in `Item.prompt`.
        max_new_tokens: most tokens of one answer, the end-of-sequence token included.
        join: template that wraps the prompt, see `pktkit.encoding.TEMPLATES`.
        begins: for each prompt, how its answer begins; the model goes on from there, and the
            beginning is not returned. Empty where answers begin freely.
        stop: an answer ends before the first of these texts in it.
        strip: whether outer white space is removed; indentation counts where code is continued.
        sampling: greedy, or how tokens are drawn; the same prompt may be given several times.
        batch_tokens: tokens per batch, padding and room for new tokens included; None for what
            suits the device.

    Returns:
        One text per prompt, in the order given, without special tokens.

    Raises:
        UsageError: `max_new_tokens` is not positive, a stop string is empty, a prompt has no
            tokens, or a prompt fills all positions of the model.
        DoesNotFitError: memory runs out for a single prompt.
    """
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
    ending = Ending.of(model, stop)
    rows = [
        _encode_prefix(model.tokenizer, prompt, join, begin)
        for prompt, begin in zip(prompts, begins or [""] * len(prompts), strict=True)
    ]
    limit = context_limit(model.model)
    _check_lengths(rows, limit)
    budgets = [min(max_new_tokens, limit - len(row)) for row in rows]
    answers = _continued(model, rows, budgets, ending, sampling, batch_tokens)
    if strip:
        return [ending.cut(ending.text(ids)).strip() for ids in answers]
    return [ending.cut(ending.text(ids, after=row)) for row, ids in zip(rows, answers, strict=True)]


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


@attrs.frozen(eq=False)
class Ending:
    """What ends an answer before its budget does.

    Arguments:
        tokenizer: reads answers.
        ids: tokens that end an answer and are no part of it.
        stop: texts that end an answer and are no part of it.
    """

    tokenizer: Any
    ids: frozenset[int]
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: LoadedModel, stop: Sequence[str]) -> Ending:
        """Read the model's own end tokens, and check the stop strings.

        Raises:
            UsageError: a stop string is empty.
        """
        if not all(stop):
            raise UsageError(f"a stop string must not be empty, got {list(stop)}.")
        return cls(model.tokenizer, end_ids(model), tuple(stop))

    def text(self, ids: Sequence[int], *, after: Sequence[int] = ()) -> str:
        """Return the text of an answer, without special tokens.

        Arguments:
            ids: of the answer.
            after: of what stands before it. Some tokenizers drop a space at the beginning of a
                text, which in code is an indentation; read behind the last token it is kept.
        """
        alone = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        if not after:
            return alone
        start = str(self.tokenizer.decode(after[-1:], skip_special_tokens=True))
        whole = str(self.tokenizer.decode([*after[-1:], *ids], skip_special_tokens=True))
        kept = whole.removeprefix(start)
        return kept if whole.startswith(start) and kept.endswith(alone) else alone

    def cut(self, text: str) -> str:
        """Return what stands before the first stop string."""
        found = [text.find(each) for each in self.stop]
        return text[: min((place for place in found if place >= 0), default=len(text))]

    def reached(self, ids: Sequence[int]) -> bool:
        """Whether an answer holds a stop string; asked after every token.

        The end of the answer is looked at first: a stop string has at most as many tokens as
        bytes, plus some of which it is only a part.
        """
        if not self.stop:
            return False
        longest = max(len(each.encode()) for each in self.stop)
        end = self.text(ids[-(longest + 2) :])
        if not any(each in end for each in self.stop):
            return False
        return any(each in self.text(ids) for each in self.stop)


def _continued(
    model: LoadedModel,
    rows: Sequence[list[int]],
    budgets: Sequence[int],
    ending: Ending,
    sampling: Sampling,
    batch_tokens: int | None,
) -> list[list[int]]:
    """Continue all rows, in batches; row `i` gets at most `budgets[i]` tokens."""
    streams = sampling.streams(rows)
    answers: list[list[int]] = [[] for _ in rows]

    def run(chosen: list[int]) -> None:
        # Made anew for every attempt: a batch that did not fit draws the same once more.
        pick = sampling.picking([streams[i] for i in chosen])
        given = [rows[i] for i in chosen], [budgets[i] for i in chosen]
        for i, ids in zip(chosen, _decode(model, *given, ending, pick), strict=True):
            answers[i] = ids

    loads = [Load(len(row) + budget) for row, budget in zip(rows, budgets, strict=True)]
    with evaluating(model.model):
        run_in_batches(model, loads, run, batch_tokens=batch_tokens)
    return answers


def _decode(
    model: LoadedModel,
    rows: Sequence[list[int]],
    budgets: Sequence[int],
    ending: Ending,
    pick: Pick,
) -> list[list[int]]:
    """Continue one batch; row `i` gets at most `budgets[i]` tokens.

    The key-value cache is cut down to the rows that are still going.
    """
    answers: list[list[int]] = [[] for _ in rows]
    going = list(range(len(rows)))
    reader = CachedReader(model, rows)
    logits = reader.start(go_on=max(budgets) > 1)
    while True:
        best = pick(logits, going)
        stay = []
        for place, (row, token) in enumerate(zip(going, best.tolist(), strict=True)):
            if token not in ending.ids:
                answers[row].append(token)
                if len(answers[row]) < budgets[row] and not ending.reached(answers[row]):
                    stay.append(place)
        if not stay:
            return answers
        if len(stay) < len(going):
            going = [going[place] for place in stay]
            reader.keep(stay)
            best = best[stay]
        logits = reader.step(best)


def _encode_prefix(tokenizer: Any, prompt: str, join: str, begin: str = "") -> list[int]:
    """Encode what precedes an answer, without special tokens that close a text."""
    prefix, _ = template(join)(tokenizer, prompt, "")
    if begin:
        prefix += begin if prefix[-1:] in ("", " ", "\n") else f" {begin}"
    return encode_text(tokenizer, prefix)[0]


def _check_lengths(rows: Sequence[Sequence[int]], limit: int) -> None:
    for index, row in enumerate(rows):
        if not row:
            raise UsageError(f"prompt {index} has no tokens; give it text or a BOS token.")
        if len(row) >= limit:
            raise UsageError(
                f"prompt {index} has {len(row)} tokens and leaves no room for an answer: the "
                f"model has {limit} positions. Shorten the prompt."
            )
