"""Rows answered by the source: what they hold, and that gold answers are never looked at."""

from __future__ import annotations

import attrs
import pytest
from tiny_transfers import pair_of, same_bits, snapshot, word_task

from pktkit.budget import Budget
from pktkit.components import Choice, Kind
from pktkit.inference.generation import continuation_logprobs, generate
from pktkit.journal import Journal
from pktkit.probe import Probe, ReadingCache
from pktkit.registry import Registry
from pktkit.transfer import budget_for, run_transfer, transfer_data


def texts(data):
    split = data.probe.encoded("train")
    items = {item.id: item for item in data.probe.task.items("train")}
    return {split.items[row].id: items[split.items[row].id].answer for row in data.rows}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_label_free_rows_carry_what_the_source_generates(family):
    pair, task = pair_of(family), word_task()
    data = transfer_data(Probe(pair, task), Budget(rows=4, labels="source"), seed=3)
    gold = transfer_data(Probe(pair, task), Budget(rows=4), seed=3)
    prompts = {item.id: item.prompt for item in task.items("train")}
    written = generate(
        pair.source, [prompts[i] for i in texts(gold)], max_new_tokens=task.max_new_tokens
    )
    assert texts(data) == {f"{i}@source": t for i, t in zip(texts(gold), written, strict=True)}


def test_gold_answers_are_not_looked_at():
    pair, task = pair_of("llama"), word_task()
    blank = tuple(attrs.evolve(item, answer="t0") for item in task.items("train"))
    other = attrs.evolve(task, splits={**task.splits, "train": blank})
    budget = Budget(labels="source")
    assert texts(transfer_data(Probe(pair, task), budget, 0)) == texts(
        transfer_data(Probe(pair, other), budget, 0)
    )


def test_choices_are_answered_with_the_likeliest():
    pair, task = pair_of("llama"), word_task()
    choices = ("t1", "t2 t3", "t4")
    items = tuple(attrs.evolve(i, answer="t1", choices=choices) for i in task.items("train"))
    task = attrs.evolve(task, splits={**task.splits, "train": items})
    found = texts(transfer_data(Probe(pair, task), Budget(labels="source"), 0))
    scored = continuation_logprobs(pair.source, [i.prompt for i in items], [choices] * len(items))
    best = [choices[max(range(3), key=row.__getitem__)] for row in scored]
    assert list(found.values()) == best


def test_further_prompts_stand_beside_gold_rows():
    pair, task = pair_of("qwen2"), word_task(9)
    probe = Probe(pair, task)
    data = transfer_data(probe, Budget(rows=4, unlabelled=3), seed=1)
    gold = texts(transfer_data(probe, Budget(rows=4), seed=1))
    found = texts(data)
    assert {i: t for i, t in found.items() if not i.endswith("@source")} == gold
    further = {i.removesuffix("@source") for i in found} - gold.keys()
    assert len(found) == 7 and len(further) == 3


def test_answers_are_generated_once_and_shared_through_the_cache(tmp_path, monkeypatch):
    pair, task = pair_of("llama"), word_task()
    first = texts(transfer_data(_probe(pair, task, tmp_path), Budget(labels="source"), 0))

    def never(*arguments):
        raise AssertionError("the source was asked again")

    monkeypatch.setattr("pktkit.probe.probe.answers", never)
    again = texts(transfer_data(_probe(pair, task, tmp_path), Budget(labels="source"), 0))
    assert again == first


def _probe(pair, task, directory):
    return Probe(pair, task, cache=ReadingCache(directory))


def test_seqkd_trains_on_the_sources_answers_and_nothing_else():
    """With gold answers swapped for others, `seqkd` gives the same weights and `sft` does not."""
    registry = Registry.discover()
    outcomes = {"sft": [], "seqkd": []}
    for answer in ("t0 t1", "t5"):
        pair, task = pair_of("llama"), word_task()
        items = tuple(attrs.evolve(item, answer=answer) for item in task.items("train"))
        budget = {"steps": 3, "batch_size": 3}
        task = attrs.evolve(task, splits={**task.splits, "train": items}, budget=budget)
        probe = Probe(pair, task)
        for name in outcomes:
            strategy = registry.strategy(name)
            with Journal(pair.target) as journal:
                data = transfer_data(probe, budget_for(task, strategy), 0)
                run_transfer(strategy, pair, probe, data, journal, registry, task="words")
                outcomes[name].append(snapshot(pair.target))
                journal.rollback()
    pair = pair_of("llama")
    _load(pair.target, outcomes["seqkd"][0])
    assert same_bits(pair.target, outcomes["seqkd"][1])
    _load(pair.target, outcomes["sft"][0])
    assert not same_bits(pair.target, outcomes["sft"][1])


def _load(model, values):
    for name, parameter in model.model.named_parameters():
        parameter.data.copy_(values[name])


def test_seqkd_works_across_tokenizers():
    """Only text passes from source to target."""
    pair = pair_of("llama", source={"vocab": 59})
    probe = Probe(pair, word_task())
    registry = Registry.discover()
    assert registry.build(Kind.INJECTOR, Choice("fine-tune"))
    data = transfer_data(probe, Budget(steps=1, labels="source"), 0)
    strategy = registry.strategy("seqkd")
    with Journal(pair.target) as journal:
        done = run_transfer(strategy, pair, probe, data, journal, registry, task="words")
    assert done.injection is not None and done.injection.steps == 1
