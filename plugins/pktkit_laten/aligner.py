"""Alignment by a hypernetwork from the source's neurons to changes of the target's.

Source: arXiv 2505.14436 and its public code; docs/methods/laten.md says where they leave room.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import validators
from torch.nn import functional

from pktkit.activations.recording import forward, record
from pktkit.capabilities import Capabilities
from pktkit.encoding import EncodedSplit, collate, padding_id
from pktkit.errors import NonFiniteError, UsageError, unknown_name
from pktkit.options import option
from pktkit.values import Alignment, LayerMap, Origin
from pktkit_laten.attribution import Attribution, AttributionOptions, paired_blocks
from pktkit_laten.functional import frozen, injected
from pktkit_laten.hypernetwork import build, deltas, schedule
from pktkit_laten.neurons import (
    HALVES,
    Group,
    locate,
    source_vectors,
    transfer_count,
    updates,
)
from pktkit_laten.reading import Half

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.encoding import EncodedItem
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe
    from pktkit.prospect import Prospect
    from pktkit.updates import SparseUpdate

MODULES = tuple(HALVES)

_rate = validators.and_(validators.gt(0), validators.le(1))


def _known_modules(instance: object, attribute: attrs.Attribute[Any], value: Sequence[str]) -> None:
    if not value:
        raise UsageError(f"modules names no projection. Choose from {', '.join(MODULES)}.")
    for name in value:
        if name not in MODULES:
            raise unknown_name("module", name, MODULES)


@attrs.frozen
class HypernetworkOptions(AttributionOptions):
    """Settings of the hypernetwork.

    Published: 20 examples (32 on MBPP), stopped by hand after 2, 4, 3 or 8 steps on MMLU, GSM8K,
    HumanEval or MBPP; learning rate 3e-5 (text and default) or 3e-4 (script).
    """

    layers: str = option(
        "example",
        "example ranks the blocks of each half anew for every item (published); map takes the "
        "links of the matcher for both halves.",
        choices=("example", "map"),
    )
    modules: tuple[str, ...] = option(
        MODULES,
        "Projections that receive, out of up down v o.",
        validator=_known_modules,
    )
    transfer_rate: float = option(
        0.1, "Share of the target's neurons per block that receive.", validator=_rate
    )
    inference_rate: float | None = option(
        None,
        "The same share when the updates are made; null for transfer_rate.",
        validator=validators.optional(_rate),
    )
    examples: int = option(
        20,
        "Rows of the extract split, one alignment step each; 0 takes all.",
        validator=validators.ge(0),
    )
    steps: int = option(
        0,
        "Stop after so many steps of the schedule; 0 runs it to its end.",
        validator=validators.ge(0),
    )
    align_rows: int = option(
        15, "Rows of the align split beside the example in each step.", validator=validators.ge(0)
    )
    learning_rate: float = option(3e-5, "Peak learning rate of AdamW.", validator=validators.gt(0))
    weight_decay: float = option(0.05, "Of AdamW.", validator=validators.ge(0))
    init_std: float = option(
        1e-5, "Deviation of the hypernetwork's initial weights.", validator=validators.gt(0)
    )
    reg: str = option(
        "none",
        "l2 adds reg_weight times the mean square of the deltas, summed over modules; none is the "
        "effect of the released code, where that term's gradient underflows.",
        choices=("none", "l2"),
    )
    reg_weight: float = option(1000.0, "Weight of l2.", validator=validators.ge(0))
    micro_batch: int = option(
        16, "Rows the target reads at once while aligning.", validator=validators.ge(1)
    )
    seed: int = option(0, "Seed of the hypernetwork's weights and of the rows.")


class Hypernetwork:
    """Learns one map per projection kind from source neurons to changes of target neurons.

    Every step locates the strongest neurons of one `extract` example in both models, lets the
    frozen target read the example and some `align` rows with the mapped neurons added, and moves
    the maps. The alignment then gives updates for any item: `sparse_at`. Tokenizers may differ:
    each model explains the answer's last token in its own encoding.
    """

    Options = HypernetworkOptions
    capabilities = Capabilities(vocabulary_permutation_invariant=True)

    def __init__(self, options: HypernetworkOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse a source without weights."""
        prospect.require_model("neuron attribution")

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Train the maps; diagnostics hold steps, tokens, losses and the size of the deltas.

        Raises:
            UsageError: an answer is empty, the map has no links, or a rate picks no neuron.
            NonFiniteError: a score, loss or gradient is not finite.
        """
        run = _Alignment(pair, layer_map, probe, self.options)
        run.train()

        def sparse_at(item: EncodedItem) -> Sequence[SparseUpdate]:
            return run.updates(item, "train")

        return Alignment(
            "hypernetwork", layer_map, sparse_at=sparse_at, diagnostics=run.diagnostics
        )


class _Alignment:
    """One run of the hypernetwork on one pair."""

    def __init__(
        self, pair: ModelPair, layer_map: LayerMap, probe: Probe, options: HypernetworkOptions
    ) -> None:
        if options.layers == "map" and not layer_map.links:
            raise UsageError(
                "aligner 'hypernetwork' with layers=map needs a matcher that links blocks; "
                "choose one, or set aligner.layers=example."
            )
        self.pair, self.layer_map, self.probe, self.options = pair, layer_map, probe, options
        source, target = pair.source.anatomy, pair.target.anatomy
        self.maps = build(
            options.modules,
            source.width,
            target.width,
            std=options.init_std,
            seed=options.seed,
            device=target.embedding.weight.device,
        )
        self.halves = tuple(dict.fromkeys(HALVES[name] for name in options.modules))
        self.diagnostics: dict[str, Any] = {
            "hypernetwork_parameters": sum(p.numel() for p in self.maps.parameters())
        }

    def train(self) -> None:
        """Take one step per example."""
        options = self.options
        rows = self._examples()
        planned = min(options.steps or len(rows), len(rows))
        optimiser, scheduler = schedule(
            self.maps,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            steps=len(rows),
        )
        losses, tokens = [], 0
        with frozen(self.pair.target.model):
            for step, example in enumerate(rows[:planned]):
                loss, read = self._accumulate(step, example)
                optimiser.step()
                scheduler.step()
                optimiser.zero_grad(set_to_none=True)
                losses.append(loss)
                tokens += read
        self.diagnostics |= {"steps": planned, "tokens": tokens, "losses": losses}

    def updates(self, item: EncodedItem, split: str) -> list[SparseUpdate]:
        """Return the updates for an item of a split, encoded by the target's tokenizer."""
        rate = self.options.inference_rate or self.options.transfer_rate
        with torch.no_grad():
            groups = self._locate(item, split, rate)
            made = deltas(self.maps, self._inputs(groups))
        return list(updates(self.pair.target.anatomy, groups, made))

    def _examples(self) -> list[EncodedItem]:
        """Draw the examples of this run, in the split's order."""
        items = self.probe.encoded("extract").items
        count = min(self.options.examples or len(items), len(items))
        drawn = random.Random(self.options.seed).sample(range(len(items)), count)
        return [items[row] for row in sorted(drawn)]

    def _accumulate(self, step: int, example: EncodedItem) -> tuple[float, int]:
        """Sum the gradients of one step's rows; return their mean loss and the tokens read."""
        groups = self._locate(example, "extract", self.options.transfer_rate)
        made = deltas(self.maps, self._inputs(groups))
        leaves = {name: value.detach().requires_grad_() for name, value in made.items()}
        rows = self._rows(step, example)
        total, tokens = 0.0, 0
        for start in range(0, len(rows), self.options.micro_batch):
            part = rows[start : start + self.options.micro_batch]
            loss, read = self._loss(part, groups, leaves)
            loss.backward()
            total, tokens = total + float(loss.detach()), tokens + read
            if not all(bool(x.isfinite().all()) for x in (loss.detach(), *_gradients(leaves))):
                listed = ", ".join(item.id for item in part[:4])
                raise NonFiniteError(
                    f"the loss or gradient of alignment step {step + 1} is not finite, items "
                    f"{listed}. Lower aligner.learning_rate, or try --dtype float32."
                )
        outputs = list(made.values())
        gradients: list[Tensor | None] = [*_gradients(leaves)]
        if self.options.reg == "l2":
            square = torch.stack([value.square().mean() for value in outputs]).sum()
            outputs.append(len(rows) * self.options.reg_weight * square)
            gradients.append(None)
        torch.autograd.backward(outputs, gradients)
        return total / len(rows), tokens

    def _loss(
        self, items: Sequence[EncodedItem], groups: Sequence[Group], leaves: Mapping[str, Tensor]
    ) -> tuple[Tensor, int]:
        """Return the sum over rows of the mean answer cross-entropy, and the tokens read."""
        target = self.pair.target
        batch = collate(
            EncodedSplit("alignment", tuple(items)),
            range(len(items)),
            pad_id=padding_id(target.tokenizer),
            device=target.anatomy.embedding.weight.device,
        )
        changes = updates(target.anatomy, groups, leaves)
        with injected(target.anatomy, changes), record(target.anatomy, (), batch):
            logits = forward(target.model, batch)
        losses = functional.cross_entropy(logits.float(), batch.gold, reduction="none")
        return torch.stack([row.mean() for row in losses.split(batch.counts)]).sum(), batch.tokens

    def _rows(self, step: int, example: EncodedItem) -> list[EncodedItem]:
        """Draw align rows without replacement, anew for every step; seed 0 seeds with the step."""
        items = self.probe.encoded("align").items
        generator = random.Random(self.options.seed * 1_000_003 + step)
        return [*generator.sample(items, min(self.options.align_rows, len(items))), example]

    def _locate(self, item: EncodedItem, split: str, rate: float) -> list[Group]:
        source = Attribution.of(self.pair.source, self._as_source(item, split), self.options)
        target = Attribution.of(self.pair.target, item, self.options)
        pairs = {half: self._pairs(half, source, target) for half in self.halves}
        counts = {half: transfer_count(self.pair, half, rate) for half in self.halves}
        return locate(source, target, pairs, counts)

    def _pairs(
        self, half: Half, source: Attribution, target: Attribution
    ) -> Sequence[tuple[int, int]]:
        if self.options.layers == "example":
            return paired_blocks(source.block_scores(half), target.block_scores(half))
        return [
            (link.sources[link.weights.index(max(link.weights))], link.target)
            for link in self.layer_map.links
        ]

    def _inputs(self, groups: Sequence[Group]) -> dict[str, Tensor]:
        """Return the source's neurons where the maps live."""
        device = next(self.maps.parameters()).device
        found = source_vectors(self.pair.source, groups, self.options.modules)
        return {name: value.to(device) for name, value in found.items()}

    def _as_source(self, item: EncodedItem, split: str) -> EncodedItem:
        """Return an item as the source's tokenizer encodes it.

        Raises:
            UsageError: the source's encoding leaves no room for its answer.
        """
        if self.pair.tokenizers.same:
            return item
        for other in self.probe.encoded(split, Origin.SOURCE).items:
            if other.id == item.id:
                return other
        raise UsageError(
            f"item {item.id} does not fit {self.probe.settings.max_length} tokens of the source's "
            "tokenizer. Raise --max-length."
        )


def _gradients(leaves: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the leaves' gradients; every leaf takes part in every loss."""
    return [leaf.grad for leaf in leaves.values() if leaf.grad is not None]
