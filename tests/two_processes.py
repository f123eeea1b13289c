"""What each of two processes runs in `test_two_processes.py`; process 0 writes what came of it.

Not a test module: it is started twice, with the variables a launcher sets.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import attrs
import torch
from click.testing import CliRunner
from scored_together import scored
from tiny_transfers import pair_of, same_bits, snapshot

import pktkit.distributed.processes
from pktkit.budget import Budget
from pktkit.cli import main
from pktkit.components import Choice
from pktkit.discovery.plugins import load_plugins
from pktkit.distributed.launch import joined
from pktkit.distributed.processes import ALONE, Processes, Sharding, Zero
from pktkit.errors import PktkitError
from pktkit.journal import Journal, fingerprint
from pktkit.meter import SOURCE, TARGET, Meter
from pktkit.overrides import apply_all
from pktkit.probe import Probe, ReadingCache
from pktkit.registry import Registry
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit.training import Auxiliary, TransferData, train
from pktkit.training.objectives import CrossEntropy
from pktkit.transfer import run_transfer
from pktkit.values import Interface

SHORT = {"steps": 3, "batch_size": 7, "learning_rate": 1e-3, "weight_decay": 0.1}

WHOLE, SHARDED = None, Sharding()
ZERO_1, ZERO_2, ZERO_3 = (Zero({"stage": stage}) for stage in (1, 2, 3))
OFFLOADED = Zero({"stage": 3, "offload_optimizer": {"device": "cpu"}})

CASES: dict[str, tuple[str, dict[str, object], tuple[str, ...], Sharding | Zero | None]] = {
    "sft": ("sft", {}, (), WHOLE),
    "sft, LoRA": ("sft", {}, ("injector.train=lora",), WHOLE),
    "sft, accumulated": ("sft", {"accumulate": 3}, (), WHOLE),
    "sft, checkpointed": ("sft", {"checkpointing": True}, (), WHOLE),
    "sft, bf16": ("sft", {"autocast": "bfloat16"}, (), WHOLE),
    "sft, sharded": ("sft", {"accumulate": 3}, (), SHARDED),
    "sft, sharded and checkpointed": ("sft", {"checkpointing": True}, (), SHARDED),
    "kd": ("kd", {}, (), WHOLE),
    "seqkd": ("seqkd", {}, (), WHOLE),
    "latent": ("latent", {}, (), WHOLE),
    "latent, accumulated": ("latent", {"accumulate": 2}, (), WHOLE),
    "latent, sharded": ("latent", {}, (), SHARDED),
    "latent, confidence": ("latent", {}, ("injector.token_weight=source-confidence",), WHOLE),
    "latent, cosine": (
        "latent",
        {},
        ("injector.layer_term=cosine", "injector.token_weight=source-confidence"),
        WHOLE,
    ),
    "latent, mse": ("latent", {}, ("injector.layer_term=mse",), WHOLE),
    "latent, cka": ("latent", {}, ("injector.layer_term=cka",), WHOLE),
    "latent, scaled fisher": ("latent", {}, ("injector.layer_term=fisher-scaled",), WHOLE),
    "latent-v1": ("latent-v1", {}, (), WHOLE),
    "latent-fisher": ("latent-fisher", {}, (), WHOLE),
    "latent-geometry": ("latent-geometry", {}, (), WHOLE),
    "latent-hint": ("latent-hint", {}, (), WHOLE),
    "latent-hint, sharded": ("latent-hint", {}, (), SHARDED),
    "fisher through a moving head, sharded": (
        "latent-fisher",
        {},
        ("injector.train=full", "injector.output_stage=last"),
        SHARDED,
    ),
    "seeking": ("seeking", {}, ("injector.dropout=0", "aligner.rank=4"), WHOLE),
    "seeking, sharded": ("seeking", {}, ("injector.dropout=0", "aligner.rank=4"), SHARDED),
    "pissa": ("pissa", {}, ("aligner.rank=4",), WHOLE),
    "sft, accumulated, ZeRO 1": ("sft", {"accumulate": 3}, (), ZERO_1),
    "sft, accumulated, ZeRO 3": ("sft", {"accumulate": 3}, (), ZERO_3),
    "sft, checkpointed, ZeRO 3": ("sft", {"checkpointing": True}, (), ZERO_3),
    "sft, bf16, ZeRO 2": ("sft", {"autocast": "bfloat16"}, (), ZERO_2),
    "sft, ZeRO 3, optimiser offloaded": ("sft", {}, (), OFFLOADED),
    "latent, ZeRO 2": ("latent", {}, (), ZERO_2),
    "latent-hint, ZeRO 2": ("latent-hint", {}, (), ZERO_2),
    "latent-geometry, ZeRO 1": ("latent-geometry", {}, (), ZERO_1),
    "fisher through a moving head, ZeRO 3": (
        "latent-fisher",
        {},
        ("injector.train=full", "injector.output_stage=last"),
        ZERO_3,
    ),
    "seeking, ZeRO 3": ("seeking", {}, ("injector.dropout=0", "aligner.rank=4"), ZERO_3),
}
"""Strategy, budget, overrides and layout. `latent-fisher` and `latent-geometry` train one block
after another."""

INSTALLED = find_spec("deepspeed") is not None


def can_run(name: str) -> bool:
    """Whether what a case needs is installed."""
    return INSTALLED or not isinstance(CASES[name][3], Zero)


def uneven_task() -> Task:
    """Eleven rows whose answers have one to four words: no two processes get as many tokens."""
    items = tuple(
        Item(
            f"i{i}",
            " ".join(f"t{(3 * i + j) % 40}" for j in range(2 + i % 3)),
            " ".join(f"t{(5 * i + j) % 50}" for j in range(1 + (i * i) % 4)),
        )
        for i in range(11)
    )
    return Task(
        name="uneven",
        splits=dict.fromkeys(("train", "align", "extract", "dev", "test"), items),
        evaluator=Choice("exact-match"),
        card=TaskCard(summary="", metric="", splitting=""),
        max_new_tokens=3,
    )


def transferred(
    registry: Registry, cache: Path, name: str, processes: Processes
) -> dict[str, object]:
    """Run one case; return the weights and what was reported."""
    strategy_name, fields, overrides, _ = CASES[name]
    (strategy,) = apply_all([registry.strategy(strategy_name)], overrides, registry)
    budget = Budget(**{**SHORT, **fields, "labels": strategy.budget.get("labels", "gold")})
    pair = pair_of("llama")
    probe = Probe(pair, uneven_task(), cache=ReadingCache(cache))
    if budget.labels == "source":
        probe = probe.answered
    rows = tuple(range(len(probe.encoded("train").items)))[-11:]
    data = TransferData(probe, rows, budget, seed=5, processes=processes)
    with Journal(pair.target) as journal, Meter(pair.source, pair.target).counting() as meter:
        done = run_transfer(strategy, pair, probe, data, journal, registry, task="uneven")
    assert done.injection is not None
    return {
        "weights": snapshot(pair.target),
        "moved": len(journal.changed()),
        "tokens": done.injection.tokens,
        "operations": [meter.flops(side) for side in (SOURCE, TARGET)],
        "losses": {term: list(values) for term, values in done.injection.losses.items()},
    }


def compared(registry: Registry, cache: Path, name: str, processes: Processes) -> dict[str, object]:
    """Run a case alone and together, and return how far apart they end."""
    start = time.perf_counter()
    sharded = attrs.evolve(processes, sharding=CASES[name][3])
    together = transferred(registry, cache, name, sharded)
    prints = {n: fingerprint(w) for n, w in together["weights"].items()}
    ends = processes.everyones(prints)
    found = {"same": all(end == prints for end in ends)}
    if processes.main:
        alone = transferred(registry, cache, name, ALONE)
        weights = zip(alone["weights"].values(), together["weights"].values(), strict=True)
        found |= {
            "difference": max(float((ours - theirs).abs().max()) for ours, theirs in weights),
            "moved": together["moved"],
            "tokens": [alone["tokens"], together["tokens"]],
            "operations": [alone["operations"], together["operations"]],
            "losses": [alone["losses"], together["losses"]],
            "seconds": time.perf_counter() - start,
        }
    return found


@attrs.define
class Naive:
    """An objective that knows nothing of processes: it reads states, logits and batch."""

    readout: torch.nn.Linear

    def blocks(self, share):
        return (0, 2)

    def terms(self, view):
        before, after = view.recording.before(2), view.recording.after(0)
        some = torch.arange(0, len(view.batch.gold), 2)
        gram = self.readout(before) @ after.T
        added = view.recording.states(2, Interface.CONTRIBUTION, some)
        gold = view.logits.gather(1, view.batch.gold[:, None])
        return {"naive": gram.square().mean() + added.std() - gold.max()}


def naive(processes: Processes) -> dict[str, object]:
    """Train on an objective that relates all tokens, with a parameter beside the target."""

    def ended(processes: Processes) -> list[torch.Tensor]:
        pair = pair_of("llama")
        data = TransferData(
            Probe(pair, uneven_task()), tuple(range(11)), Budget(**SHORT), 5, processes=processes
        )
        torch.manual_seed(3)
        readout = torch.nn.Linear(32, 32)
        with Journal(pair.target) as journal:
            names = [name for name, _ in pair.target.model.named_parameters()]
            with journal.training(names) as parameters:
                beside = Auxiliary(list(readout.parameters()))
                train(pair.target, parameters, data, Naive(readout), auxiliary=beside)
        return [*snapshot(pair.target).values(), *(p.detach() for p in readout.parameters())]

    weights = zip(ended(ALONE), ended(processes), strict=True)
    return {"difference": max(float((one - two).abs().max()) for one, two in weights)}


def refused(processes: Processes, *, blow_up: bool = False, **fields: object) -> dict[str, object]:
    """Return the message of a run that must end with an error, and whether it left no trace."""
    pair = pair_of("llama")
    if blow_up:
        with torch.no_grad():
            pair.target.anatomy.head_weight[:] = torch.inf
    before = snapshot(pair.target)
    budget = Budget(**{**SHORT, **fields})
    data = TransferData(
        Probe(pair, uneven_task()), tuple(range(11)), budget, 5, processes=processes
    )
    try:
        with Journal(pair.target) as journal:
            names = [name for name, _ in pair.target.model.named_parameters()]
            with journal.training(names) as parameters:
                train(pair.target, parameters, data, CrossEntropy())
    except PktkitError as error:
        kind, message = type(error).__name__, str(error)
        processes.require_all_failed(f"refused {blow_up} {fields}", error)
        everyone = processes.everyones(message)
        return {
            "error": f"{kind}: {message}",
            "same": len(set(everyone)) == 1,
            "restored": same_bits(pair.target, before),
        }
    return {"error": "none"}


def lonely(processes: Processes) -> dict[str, object]:
    """Let process 1 fail alone; return what each is told."""
    told = ""
    if processes.rank == 1:
        try:
            processes.require_all_failed("lonely", ValueError("its disk is gone."))
        except PktkitError as error:
            told = f"{type(error).__name__}: {error}"
    return {"told": processes.everyones(told)}


def at_odds(processes: Processes) -> dict[str, object]:
    """Give each process a budget of its own; return what each is told."""
    pair = pair_of("llama")
    budget = Budget(**{**SHORT, "steps": 2 + processes.rank})
    data = TransferData(
        Probe(pair, uneven_task()), tuple(range(11)), budget, 5, processes=processes
    )
    told = ""
    try:
        train(pair.target, list(pair.target.model.parameters()), data, CrossEntropy())
    except PktkitError as error:
        told = f"{type(error).__name__}: {error}"
    return {"told": processes.everyones(told)}


def commands(processes: Processes, folder: Path) -> dict[str, object]:
    """Run `transfer` and `compare` on the embedded pair as a launcher would."""
    quick = ["--set", "budget.steps=2", "--set", "budget.rows=16", "--set", "budget.batch_size=6"]
    found = {}
    for name, arguments in {
        "transfer": [
            *("transfer", "--strategy", "latent", "--out", str(folder / "saved")),
            *("--score", "dev"),
        ],
        "occupied": ["transfer", "--strategy", "latent", "--out", str(folder / "saved")],
        "numbered": ["transfer", "--strategy", "latent", "--out", "x", "--device", "cuda:0"],
        "compare": [
            *("compare", "--strategies", "latent", "--no-controls", "--seeds", "1"),
            *("--limit", "8", "--out", str(folder / "run"), "--cell", "1/1"),
        ],
        "too few": [
            *("compare", "--strategies", "latent", "--no-controls", "--seeds", "1"),
            *("--limit", "8", "--out", str(folder / "failed"), "--set", "budget.accumulate=6"),
        ],
    }.items():
        result = CliRunner().invoke(main, [*arguments, *quick])
        found[name] = {"exit": result.exit_code, "out": result.stdout, "err": result.stderr}
    files = sorted(file.name for file in (folder / "run").iterdir())
    record = json.loads((folder / "saved" / "transfer.json").read_text(encoding="utf-8"))
    own = record["scores"]["own"]
    return {"all": processes.everyones(found), "files": files, "card": own}


def everything(folder: Path) -> None:
    """Run all cases in this process and its other."""
    with joined("cpu") as processes:
        registry = Registry(load_plugins())
        cache = folder / "cache"
        cases = [name for name in CASES if can_run(name)]
        found = {name: compared(registry, cache, name, processes) for name in cases}
        found["naive"] = naive(processes)
        found["too few rows"] = refused(processes, accumulate=4)
        found["not finite"] = refused(processes, blow_up=True)
        sharded = attrs.evolve(processes, sharding=SHARDED)
        found["not finite, sharded"] = refused(sharded, blow_up=True)
        if INSTALLED:
            partitioned = attrs.evolve(processes, sharding=ZERO_2)
            found["not finite, ZeRO"] = refused(partitioned, blow_up=True)
        found["lonely"] = lonely(processes)
        found["at odds"] = at_odds(processes)
        found["scored"] = scored(processes, folder)
        found["commands"] = commands(processes, folder)
        if processes.main:
            (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    pktkit.distributed.processes.PATIENCE = timedelta(seconds=5)
    everything(Path(sys.argv[1]))
