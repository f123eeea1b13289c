"""Every method that reuses parameters, on real wirings: what the journal says is what changed."""

from __future__ import annotations

import attrs
import pytest
from tiny_transfers import data_for, logits, pair_of, same_bits, snapshot, tree, word_task

from pktkit.budget import Budget
from pktkit.errors import StrategyError, UsageError
from pktkit.journal import Journal
from pktkit.options import build_options
from pktkit.pair import save_model
from pktkit.probe import Probe
from pktkit.registry import Registry
from pktkit.testing import tiny_loaded
from pktkit.transfer import run_transfer, transfer_data
from pktkit_controls.injectors import FineTuneOptions
from pktkit_laten.aligner import HypernetworkOptions
from pktkit_transplant.injector import TransplantOptions

REGISTRY = Registry.discover()
STRATEGIES = (
    "seeking",
    "pissa",
    "laten",
    "laten-released",
    "naive",
    "naive-interpolate",
    "naive-slice",
    "naive-task-vector",
    "transplant",
    "seqkd",
)
SOURCE = {"width": 48, "blocks": 3, "heads": 6, "kv_heads": 3, "ffn": 40}
DEEPER = {"blocks": 4, "ffn": 40}
WIDER = {"ffn": 56}
WIDER_STREAM = {"width": 64, "ffn": 40}
PAIRS = {
    "grouped queries, untied head; deeper": ("llama", {}, DEEPER),
    "biases, tied head; wider": ("qwen2", {"tied": True}, WIDER),
    "head size of its own, tied head; wider stream": ("gemma", {"head_dim": 16}, WIDER_STREAM),
    "fused, transposed, biases, tied head; deeper": ("gpt2", {}, DEEPER),
    "parallel halves, biases; wider stream": ("phi", {}, WIDER_STREAM),
}
CHOICES = {
    "aligner": {
        "laten": {"examples": 2, "align_rows": 2, "init_std": 0.05, "learning_rate": 1e-3},
        "laten-released": {"examples": 2, "align_rows": 2, "init_std": 0.05},
    },
    "injector": {"transplant": {"strength": 0.5}},
}


def chosen(name, base):
    """Return a registered strategy, with what makes it quick, or possible, on tiny models."""
    strategy = REGISTRY.strategy(name)
    options = {"base": str(base)} if name == "naive-task-vector" else {}
    for stage, by_name in CHOICES.items():
        choice = getattr(strategy, stage)
        given = by_name.get(name, {}) | (options if stage == "aligner" else {})
        if given:
            choice = attrs.evolve(choice, options={**choice.options, **given})
            strategy = attrs.evolve(strategy, **{stage: choice})
    return strategy


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Directories of models that have a source's shapes, by family."""
    made = {}
    for family, sizes, _ in PAIRS.values():
        made[family] = tmp_path_factory.mktemp(family) / "base"
        save_model(tiny_loaded(family, seed=9, **(SOURCE | sizes)), made[family])
    return made


@pytest.mark.parametrize("case", PAIRS)
def test_what_changed_is_what_the_journal_says(case, bases):
    family, sizes, larger = PAIRS[case]
    pair = pair_of(family, source=SOURCE | sizes, target=sizes | larger)
    probe = Probe(pair, word_task(6))
    before, ours = snapshot(pair.target), snapshot(pair.source)
    shape, untouched = tree(pair.target), logits(pair.target)
    for name in STRATEGIES:
        strategy = chosen(name, bases[family])
        labels = strategy.budget.get("labels", "gold")
        budget = Budget(steps=2, batch_size=3, learning_rate=1e-3, labels=labels)
        with Journal(pair.target) as journal:
            run_transfer(
                strategy,
                pair,
                probe,
                transfer_data(probe, budget, 0),
                journal,
                REGISTRY,
                task="words",
            )
            after = snapshot(pair.target)
            differing = {n for n in before if not bool((after[n] == before[n]).all())}
            assert differing == set(journal.changed()) != set(), name
            assert logits(pair.target).isfinite().all(), name
            assert tree(pair.target) == shape, name
            journal.rollback()
        assert same_bits(pair.target, before) and same_bits(pair.source, ours), name
        assert bool((logits(pair.target) == untouched).all()), name


@pytest.mark.parametrize("name", [n for n in STRATEGIES if n not in ("pissa", "seqkd")])
def test_a_source_that_is_not_finite_is_refused_and_the_target_untouched(name, bases):
    pair = pair_of("llama", source=SOURCE)
    before = snapshot(pair.target)
    pair.source.model.get_parameter("model.layers.1.mlp.down_proj.weight").data.fill_(float("nan"))
    pair.source.model.get_parameter("model.layers.1.mlp.up_proj.weight").data.fill_(float("nan"))
    probe = Probe(pair, word_task(6))
    with pytest.raises(StrategyError), Journal(pair.target) as journal:
        run_transfer(
            chosen(name, bases["llama"]),
            pair,
            probe,
            data_for(probe),
            journal,
            REGISTRY,
            task="words",
        )
    assert same_bits(pair.target, before)


@pytest.mark.parametrize("options", [HypernetworkOptions, TransplantOptions, FineTuneOptions])
def test_a_module_that_does_not_exist_is_refused_with_the_closest(options):
    with pytest.raises(UsageError, match=r"unknown module 'donw'\. Did you mean 'down'\?"):
        build_options(options, {"modules": ["up", "donw"]}, "stage")
    if options is not FineTuneOptions:
        with pytest.raises(UsageError, match="names no projection"):
            build_options(options, {"modules": []}, "stage")


def test_a_module_that_the_family_lacks_is_refused():
    pair = pair_of("gpt2")
    probe, before = Probe(pair, word_task(6)), snapshot(pair.target)
    for name in ("transplant", "seeking", "pissa"):
        stage = "injector" if name == "transplant" else "aligner"
        strategy = chosen(name, None)
        choice = getattr(strategy, stage)
        choice = attrs.evolve(choice, options={**choice.options, "modules": ["up", "gate"]})
        with pytest.raises(UsageError, match="'gate'"), Journal(pair.target) as journal:
            run_transfer(
                attrs.evolve(strategy, **{stage: choice}),
                pair,
                probe,
                data_for(probe),
                journal,
                REGISTRY,
                task="words",
            )
        assert same_bits(pair.target, before)


@pytest.mark.parametrize("name", ["seeking", "laten", "transplant", "seqkd"])
def test_an_empty_split_is_refused(name):
    pair, task = pair_of("llama"), word_task(6)
    needed = {"seeking": "extract", "laten": "extract", "transplant": "align", "seqkd": "train"}
    empty = attrs.evolve(task, splits={**task.splits, needed[name]: ()})
    before, probe = snapshot(pair.target), Probe(pair, empty)
    with pytest.raises(UsageError, match=needed[name]), Journal(pair.target) as journal:
        run_transfer(
            chosen(name, None),
            pair,
            probe,
            data_for(probe),
            journal,
            REGISTRY,
            task="words",
        )
    assert same_bits(pair.target, before)
