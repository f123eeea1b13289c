"""What the public benchmarks share: protocols by name, options, and rows to learn from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import attrs
from attrs import validators

from pktkit.components import Choice
from pktkit.errors import UsageError, did_you_mean
from pktkit.options import option
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit.tasks.jsonl_rows import normalised
from pktkit.tasks.training import Question, apart, asked, dealt, with_training
from pktkit_benchmarks.public.sources import Source

PUBLISHED = "tulu-0shot"
"""The protocol of the published transfers: Open-Instruct's evaluation in its chat format."""

BUDGET: Mapping[str, float] = {"rows": 1000, "learning_rate": 1e-4}
"""1000 rows as published; a learning rate for models of ordinary size."""

_PROTOCOL = re.compile(r"(?P<style>[a-z]+)-(?P<shots>\d+)shot")


@attrs.frozen
class BenchmarkOptions:
    """Options of every public benchmark."""

    protocol: str = option(PUBLISHED, "STYLE-Nshot; `tulu-0shot` is the published one.")
    data: str = option("", "Folder or file of rows, or another id on the Hub.")
    train: str = option(
        "", "File of rows to learn from, or folder of split files, e.g. gsm_train_split.jsonl."
    )
    max_new_tokens: int = option(
        512, "Longest generated answer in tokens.", validator=validators.ge(1)
    )


@attrs.frozen
class CodeOptions(BenchmarkOptions):
    """Options of benchmarks whose answers are programs; None keeps what the protocol says."""

    samples: int | None = option(
        None, "Answers per problem.", validator=validators.optional(validators.ge(1))
    )
    k: int = option(1, "Report pass@k, at most `samples`.", validator=validators.ge(1))
    temperature: float | None = option(
        None, "0 answers greedily.", validator=validators.optional(validators.ge(0))
    )
    top_p: float | None = option(None, "Nucleus that tokens are drawn from, 0 to 1.")
    seed: int = option(0, "Of the draws.")
    take: str | None = option(
        None,
        "All of an answer, or the first code fence in it.",
        validator=validators.optional(validators.in_(("text", "fenced"))),
    )


@attrs.frozen
class Protocol:
    """A way to ask: the style of the prompts, and how many solved examples precede them."""

    style: str
    shots: int

    @property
    def name(self) -> str:
        """As typed."""
        return f"{self.style}-{self.shots}shot"


def parse_protocol(text: str, styles: Mapping[str, int]) -> Protocol:
    """Read `STYLE-Nshot`.

    Arguments:
        text: as typed after the colon.
        styles: by style, the most examples that may precede.

    Raises:
        UsageError: no such style, or more examples than there are.
    """
    match = _PROTOCOL.fullmatch(text)
    style = match["style"] if match else text.partition("-")[0]
    known = ", ".join(f"{name}-0shot to {name}-{most}shot" for name, most in styles.items())
    if style not in styles or match is None:
        raise UsageError(
            f"there is no protocol '{text}'.{did_you_mean(style, styles)} Known: {known}."
        )
    if int(match["shots"]) > styles[style]:
        raise UsageError(f"protocol '{text}' asks for {match['shots']} examples. Known: {known}.")
    return Protocol(style, int(match["shots"]))


@attrs.frozen
class Asking:
    """How a benchmark is scored under one protocol.

    Arguments:
        source: where its rows come from.
        protocol: see `Protocol`.
        evaluator: with options.
        card: what it measures.
        template: how prompt and answer are joined.
        max_new_tokens: longest answer.
    """

    source: Source
    protocol: Protocol
    evaluator: Choice
    card: TaskCard
    template: str
    max_new_tokens: int

    def task(
        self,
        test: Iterable[Item],
        *,
        pool: Iterable[Item] = (),
        dev: Iterable[Item] = (),
        lessons: Mapping[str, Iterable[Item]] | None = None,
        question: Question,
        where: str,
    ) -> Task:
        """Return the task, with splits in which no question is twice.

        Arguments:
            test: scored items.
            pool: the benchmark's own training items, of which all splits but `test` are dealt.
            dev: its own validation items, if `dev` is not to be dealt from the pool.
            lessons: items of `train` and perhaps `align` and `extract` that take the pool's place.
            question: returns the question inside a prompt.
            where: where training rows come from, for messages.
        """
        test = tuple(test)
        advice = (
            f"give rows to learn from with `--task '{self.source.name}?train=FILE'`, or score "
            "untouched models only."
        )
        task = Task(
            name=self.source.name,
            splits={"test": test},
            evaluator=self.evaluator,
            card=self.card,
            max_new_tokens=self.max_new_tokens,
            template=self.template,
            budget=BUDGET,
            protocol=self.protocol.name,
            absent=dict.fromkeys(("train", "align", "extract", "dev"), advice),
        )
        taken = asked(test, question)
        for items in (lessons or {}).values():
            taken |= asked(items, question)
        own = tuple(pool)
        unseen = apart(own, set(taken), question)
        kept = apart(dev, taken, question) or (
            dealt(unseen, self.source.name)["dev"] if unseen else ()
        )
        if kept:
            absent = {split: why for split, why in task.absent.items() if split != "dev"}
            task = attrs.evolve(task, splits={**task.splits, "dev": kept}, absent=absent)
        scored = asked(kept, question)
        own = tuple(item for item in own if normalised(question(item.prompt)) not in scored)
        learnt = lessons or ({"train": own} if own else {})
        return with_training(task, learnt, where=where, question=question) if learnt else task


def questions(known: Mapping[str, str], otherwise: Question) -> Question:
    """Return a function from prompt to question: the known ones, and a reading of others."""

    def question(prompt: str) -> str:
        return known[prompt] if prompt in known else otherwise(prompt)

    return question


def need(rows: Sequence[object], source: Source, data: str, split: str, why: str) -> None:
    """Refuse to go on without rows of a split.

    Raises:
        UsageError: there are none.
    """
    if not rows:
        raise UsageError(
            f"there are no '{split}' rows in {data or source.hub}, {why}. {source.ways()}"
        )
