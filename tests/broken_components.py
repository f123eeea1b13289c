"""Components that break one law each: what the contract kit is there to catch.

`@breaks(kind, law)` files a class under the law it was made to break. Every one of them is a
sound component but for that: matchers pair by depth, aligners are ridge, injectors overwrite,
evaluators are exact match.
"""

from __future__ import annotations

import random

import attrs
import torch

from pktkit.capabilities import Capabilities
from pktkit.components import Choice, Component, Kind, Strategy
from pktkit.hookspecs import hookimpl
from pktkit.options import option
from pktkit.outcomes import ItemScore
from pktkit.training import train
from pktkit.values import Injection, LayerLink
from pktkit_benchmarks.exact_match import ExactMatch, ExactMatchOptions
from pktkit_latent.aligners import RidgeAligner, RidgeOptions
from pktkit_latent.matchers import DepthMatcher, DepthOptions
from pktkit_naive.injector import Overwrite, OverwriteOptions

BROKEN: dict[tuple[Kind, str], list] = {}
"""What breaks each law, by kind and law."""


def breaks(kind, law):
    def file(component):
        BROKEN.setdefault((kind, law), []).append(component)
        return component

    return file


def change(model):
    with torch.no_grad():
        model.anatomy.embedding.weight.add_(1e-3)


# --- matchers --------------------------------------------------------------------------------


class Matcher(DepthMatcher):
    """Pairs by depth; subclasses bend the sources by `bent(index, ...)`."""

    capabilities = Capabilities()

    def match(self, pair, probe):
        found = super().match(pair, probe)
        shift = self.shift(pair, probe)
        links = [
            LayerLink(link.target, ((link.sources[0] + shift) % found.source_blocks,))
            for link in found.links
        ]
        return attrs.evolve(found, links=links)

    def shift(self, pair, probe):
        return 0


@attrs.frozen
class Undocumented(DepthOptions):
    silent: int = option(3, "")


@breaks(Kind.MATCHER, "options-round-trip")
class SilentMatcher(Matcher):
    Options = Undocumented


@breaks(Kind.MATCHER, "deterministic")
class DiceMatcher(Matcher):
    def match(self, pair, probe):
        return attrs.evolve(super().match(pair, probe), scores=[random.random()])


@breaks(Kind.MATCHER, "source-unchanged")
class MeddlingMatcher(Matcher):
    def shift(self, pair, probe):
        change(pair.source)
        return 0


@breaks(Kind.MATCHER, "target-unchanged")
class WakingMatcher(Matcher):
    def shift(self, pair, probe):
        pair.target.model.train()
        return 0


@breaks(Kind.MATCHER, "serialisable")
class TensorMatcher(Matcher):
    def match(self, pair, probe):
        found = super().match(pair, probe)
        return attrs.evolve(found, diagnostics={"mean": torch.zeros(1)})


@breaks(Kind.MATCHER, "degenerate-data")
class DividingMatcher(Matcher):
    def match(self, pair, probe):
        scores = probe.attribution("extract").double().sum(dim=0)
        return attrs.evolve(super().match(pair, probe), scores=(scores / scores.sum()).tolist())


@breaks(Kind.MATCHER, "padding")
class BatchMatcher(Matcher):
    def shift(self, pair, probe):
        return int(probe.settings.batch_size > 1)


@breaks(Kind.MATCHER, "item-order")
class FirstItemMatcher(Matcher):
    capabilities = Capabilities(item_order_invariant=True)

    def shift(self, pair, probe):
        return probe.encoded("extract").items[0].input_ids[1]


@breaks(Kind.MATCHER, "vocabulary-permutation")
class NumberMatcher(Matcher):
    capabilities = Capabilities(vocabulary_permutation_invariant=True)

    def shift(self, pair, probe):
        return sum(item.input_ids[-2] for item in probe.encoded("extract").items)


@breaks(Kind.MATCHER, "rotation-equivariant")
class ChannelMatcher(Matcher):
    capabilities = Capabilities(rotation_equivariant=True)

    def shift(self, pair, probe):
        return int(pair.source.anatomy.embedding.weight.abs().sum(dim=0).argmax())


@breaks(Kind.MATCHER, "self-transfer")
class ShiftingMatcher(Matcher):
    capabilities = Capabilities(self_transfer_tolerance=0.0)

    def shift(self, pair, probe):
        return 1


@breaks(Kind.MATCHER, "in-range")
class DeeperMatcher(Matcher):
    def match(self, pair, probe):
        found = super().match(pair, probe)
        return attrs.evolve(found, source_blocks=found.source_blocks + 1)


@breaks(Kind.MATCHER, "in-range")
class HeavyMatcher(Matcher):
    def match(self, pair, probe):
        found = super().match(pair, probe)
        links = [attrs.evolve(link, weights=(2.0,)) for link in found.links]
        return attrs.evolve(found, links=links)


@breaks(Kind.MATCHER, "in-range")
class IdleMatcher(Matcher):
    def match(self, pair, probe):
        return attrs.evolve(super().match(pair, probe), links=[])


@breaks(Kind.MATCHER, "monotone")
class BackwardMatcher(Matcher):
    capabilities = Capabilities(monotone=True)

    def match(self, pair, probe):
        found = super().match(pair, probe)
        links = [
            attrs.evolve(link, sources=other.sources)
            for link, other in zip(found.links, reversed(found.links), strict=True)
        ]
        return attrs.evolve(found, links=links)


# --- aligners --------------------------------------------------------------------------------


class Aligner(RidgeAligner):
    """Ridge; subclasses bend its maps by `bent(state_map, pair, probe)`."""

    capabilities = Capabilities()

    def align(self, pair, layer_map, probe):
        found = super().align(pair, layer_map, probe)
        states = found.target_states
        maps = {b: self.bent(m, pair, probe) for b, m in states.maps.items()}
        return attrs.evolve(found, target_states=attrs.evolve(states, maps=maps))

    def bent(self, state_map, pair, probe):
        return state_map


@attrs.frozen
class UndocumentedRidge(RidgeOptions):
    silent: int = option(3, "")


@breaks(Kind.ALIGNER, "options-round-trip")
class SilentAligner(Aligner):
    Options = UndocumentedRidge


@breaks(Kind.ALIGNER, "deterministic")
class DiceAligner(Aligner):
    def bent(self, state_map, pair, probe):
        noise = torch.randn(())
        return lambda x: state_map(x) * (1 + noise.to(x) / 100)


@breaks(Kind.ALIGNER, "source-unchanged")
class MeddlingAligner(Aligner):
    def bent(self, state_map, pair, probe):
        change(pair.source)
        return state_map


@breaks(Kind.ALIGNER, "target-unchanged")
class HookingAligner(Aligner):
    def bent(self, state_map, pair, probe):
        pair.target.model.register_forward_hook(lambda *_: None)
        return state_map


@breaks(Kind.ALIGNER, "target-unchanged")
class WritingAligner(Aligner):
    def bent(self, state_map, pair, probe):
        change(pair.target)
        return state_map


@breaks(Kind.ALIGNER, "serialisable")
class NanAligner(Aligner):
    def align(self, pair, layer_map, probe):
        found = super().align(pair, layer_map, probe)
        return attrs.evolve(found, diagnostics={"fit": float("nan")})


@breaks(Kind.ALIGNER, "degenerate-data")
class DividingAligner(Aligner):
    def bent(self, state_map, pair, probe):
        size = pair.source.anatomy.embedding.weight.norm()
        return lambda x: state_map(x) * (size / size).to(x)


@breaks(Kind.ALIGNER, "padding")
class PaddedAligner(Aligner):
    """Counts padding in a mean length."""

    def bent(self, state_map, pair, probe):
        items, size = probe.encoded("align").items, probe.settings.batch_size
        groups = [items[i : i + size] for i in range(0, len(items), size)]
        mean = sum(max(len(i.input_ids) for i in group) for group in groups) / len(groups)
        return lambda x: state_map(x) * mean


@breaks(Kind.ALIGNER, "item-order")
class FirstItemAligner(Aligner):
    capabilities = Capabilities(item_order_invariant=True)

    def bent(self, state_map, pair, probe):
        length = len(probe.encoded("align").items[0].input_ids)
        first = probe.states("align", [0]).read([0])[0][0].norm()
        return lambda x: state_map(x) * (length + first.to(x))


@breaks(Kind.ALIGNER, "vocabulary-permutation")
class LeadingRowsAligner(Aligner):
    """Reads the first rows of the LM head, whichever tokens they stand for."""

    capabilities = Capabilities(vocabulary_permutation_invariant=True)

    def bent(self, state_map, pair, probe):
        size = pair.target.anatomy.head_weight.detach()[4:12].norm()
        return lambda x: state_map(x) * size.to(x)


@breaks(Kind.ALIGNER, "rotation-equivariant")
class ChannelAligner(Aligner):
    capabilities = Capabilities(rotation_equivariant=True)

    def bent(self, state_map, pair, probe):
        return lambda x: state_map(x.clamp(min=0))


@breaks(Kind.ALIGNER, "self-transfer")
class DampedAligner(Aligner):
    """Promises what a far smaller penalty could keep."""

    capabilities = Capabilities(self_transfer_tolerance=0.05)

    def __init__(self, options):
        super().__init__(attrs.evolve(options, penalty=10.0))


@breaks(Kind.ALIGNER, "shapes")
class UnmappedAligner(Aligner):
    """Says that states are in the target's space where they are the source's own."""

    def bent(self, state_map, pair, probe):
        return lambda x: x


@breaks(Kind.ALIGNER, "shapes")
class TransposedAligner(Aligner):
    """Gives an update in the layout of the checkpoint where `[out, in]` is asked for."""

    def align(self, pair, layer_map, probe):
        from pktkit.updates import LowRankUpdate

        down = pair.target.anatomy.projections(0)["down"].read(pair.target.model)
        update = LowRankUpdate(0, "down", down.T[:, :2].clone(), down[:2].clone().T[:2])
        return attrs.evolve(super().align(pair, layer_map, probe), low_rank=[update])


@breaks(Kind.ALIGNER, "shapes")
class UnlinkedAligner(Aligner):
    def align(self, pair, layer_map, probe):
        found = super().align(pair, layer_map, probe)
        states = found.target_states
        more = {99: states.maps[0], **states.maps}
        return attrs.evolve(found, target_states=attrs.evolve(states, maps=more))


@breaks(Kind.ALIGNER, "dtype-device")
class SingleAligner(Aligner):
    def bent(self, state_map, pair, probe):
        return lambda x: state_map(x).float()


@breaks(Kind.ALIGNER, "finite")
class UnitAligner(Aligner):
    """Divides by the length of a state, which may be zero."""

    def bent(self, state_map, pair, probe):
        return lambda x: state_map(x / x.norm(dim=-1, keepdim=True))


@breaks(Kind.ALIGNER, "token-wise")
class CentringAligner(Aligner):
    """Takes the mean over whatever tokens come together."""

    def bent(self, state_map, pair, probe):
        return lambda x: state_map(x - x.mean(dim=0))


@breaks(Kind.ALIGNER, "affine")
class SquashingAligner(Aligner):
    capabilities = Capabilities(affine=True)

    def bent(self, state_map, pair, probe):
        return lambda x: state_map(x).tanh()


@breaks(Kind.ALIGNER, "homogeneous")
class OffsetAligner(Aligner):
    """Says linear, and is affine."""

    capabilities = Capabilities(affine=True, homogeneous=1)


@breaks(Kind.ALIGNER, "saved-maps")
class ForgetfulAligner(Aligner):
    """Saves its maps before the last step."""

    capabilities = Capabilities(saving=RidgeAligner.capabilities.saving)

    def bent(self, state_map, pair, probe):
        return lambda x: 2 * state_map(x)


# --- injectors -------------------------------------------------------------------------------


class Injector(Overwrite):
    """Overwrites; subclasses do something more in `more(target, data, journal)`."""

    capabilities = Capabilities()

    def inject(self, target, alignment, data, journal):
        found = super().inject(target, alignment, data, journal)
        self.more(target, data, journal)
        return found

    def more(self, target, data, journal):
        pass


def norm_weight(target, journal):
    """Return a parameter that may change, journalled."""
    (parameter,) = journal.touch([target.anatomy.block_parameters(0)[0]])
    return parameter


@attrs.frozen
class UndocumentedOverwrite(OverwriteOptions):
    silent: int = option(3, "")


@breaks(Kind.INJECTOR, "options-round-trip")
class SilentInjector(Injector):
    Options = UndocumentedOverwrite


@breaks(Kind.INJECTOR, "deterministic")
class DiceInjector(Injector):
    """Draws from the global generator instead of the run's seed."""

    def more(self, target, data, journal):
        parameter = norm_weight(target, journal)
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter) * 1e-3)


@breaks(Kind.INJECTOR, "source-unchanged")
class MeddlingInjector(Injector):
    def more(self, target, data, journal):
        change(data.probe.pair.source)


@breaks(Kind.INJECTOR, "serialisable")
class TensorInjector(Injector):
    def inject(self, target, alignment, data, journal):
        found = super().inject(target, alignment, data, journal)
        return attrs.evolve(found, diagnostics={"norm": torch.ones(())})


@breaks(Kind.INJECTOR, "degenerate-data")
class DividingInjector(Injector):
    def more(self, target, data, journal):
        size = data.probe.pair.source.anatomy.embedding.weight.norm()
        with torch.no_grad():
            norm_weight(target, journal).mul_(size / size)


@breaks(Kind.INJECTOR, "dtype-device")
class DoublingInjector(Injector):
    def more(self, target, data, journal):
        parameter = norm_weight(target, journal)
        parameter.data = parameter.data.double()


@breaks(Kind.INJECTOR, "finite")
class InfiniteInjector(Injector):
    def more(self, target, data, journal):
        with torch.no_grad():
            norm_weight(target, journal).fill_(float("inf"))


@breaks(Kind.INJECTOR, "journalled")
class SecretInjector(Injector):
    def more(self, target, data, journal):
        change(target)


@breaks(Kind.INJECTOR, "journalled")
class TrainingInjector(Injector):
    """Leaves dropout switched on."""

    def more(self, target, data, journal):
        target.model.train()


@breaks(Kind.INJECTOR, "rollback")
class LateInjector(Injector):
    """Records the value that a parameter has after it was changed."""

    def more(self, target, data, journal):
        name = target.anatomy.block_parameters(0)[0]
        journal._before.pop(name, None)
        with torch.no_grad():
            target.model.get_parameter(name).add_(1e-3)
        journal.touch([name])


@breaks(Kind.INJECTOR, "strength-zero")
class EagerInjector(Injector):
    """Ignores a strength below one in a thousand."""

    capabilities = Capabilities(strength_option="strength")

    def __init__(self, options):
        super().__init__(attrs.evolve(options, strength=max(options.strength, 1e-3)))


@breaks(Kind.INJECTOR, "empty-alignment")
class TrustingInjector(Injector):
    def inject(self, target, alignment, data, journal):
        first = alignment.dense[0]
        journal.write(first.parameter, first.value)
        return Injection("trusting")


@breaks(Kind.INJECTOR, "within-budget")
class OvertimeInjector(Injector):
    def inject(self, target, alignment, data, journal):
        found = super().inject(target, alignment, data, journal)
        return attrs.evolve(found, steps=data.budget.steps + 1)


@breaks(Kind.INJECTOR, "only-its-rows")
class GreedyInjector(Injector):
    """Trains on the whole split."""

    def inject(self, target, alignment, data, journal):
        from pktkit.training.objectives import CrossEntropy

        everything = tuple(range(len(data.probe.encoded("train").items)))
        names = [name for name, _ in target.model.named_parameters()]
        with journal.training(names) as parameters:
            log = train(target, parameters, attrs.evolve(data, rows=everything), CrossEntropy())
        return Injection("greedy", steps=log.steps, tokens=log.tokens)


@breaks(Kind.INJECTOR, "save-load")
class SideInjector(Injector):
    """Keeps its change beside the weights, where saving does not find it."""

    def more(self, target, data, journal):
        target.anatomy.head.register_forward_hook(lambda module, given, output: output + 0.5)


# --- evaluators ------------------------------------------------------------------------------


class Judge(ExactMatch):
    """Exact match; subclasses bend the scores by `bent(scores, model, task)`."""

    def evaluate(self, model, task, split):
        return self.bent(super().evaluate(model, task, split), model)

    def bent(self, scores, model):
        return scores


@attrs.frozen
class UndocumentedMatch(ExactMatchOptions):
    silent: int = option(3, "")


@breaks(Kind.EVALUATOR, "options-round-trip")
class SilentJudge(Judge):
    Options = UndocumentedMatch


@breaks(Kind.EVALUATOR, "deterministic")
class DiceJudge(Judge):
    def bent(self, scores, model):
        return [attrs.evolve(score, score=random.random()) for score in scores]


@breaks(Kind.EVALUATOR, "target-unchanged")
class WakingJudge(Judge):
    def bent(self, scores, model):
        model.model.train()
        return scores


@breaks(Kind.EVALUATOR, "serialisable")
class BytesJudge(Judge):
    def bent(self, scores, model):
        return [attrs.evolve(score, prediction=b"t1") for score in scores]


@breaks(Kind.EVALUATOR, "degenerate-data")
class StandardisingJudge(Judge):
    """Divides by the spread of the scores, which may be zero."""

    def bent(self, scores, model):
        values = torch.tensor([score.score for score in scores])
        values = values / values.std(correction=0)
        return [
            attrs.evolve(score, score=value)
            for score, value in zip(scores, values.tolist(), strict=True)
        ]


@breaks(Kind.EVALUATOR, "padding")
class SharingJudge(Judge):
    def bent(self, scores, model):
        return [attrs.evolve(score, score=score.score / len(scores)) for score in scores]


@breaks(Kind.EVALUATOR, "one-score-per-item")
class DroppingJudge(Judge):
    def bent(self, scores, model):
        return [score for score in scores if score.score]


@breaks(Kind.EVALUATOR, "one-score-per-item")
class SortingJudge(Judge):
    def bent(self, scores, model):
        return sorted(scores, key=lambda score: -score.score)


@breaks(Kind.EVALUATOR, "items-alone")
class RankingJudge(Judge):
    """Gives the share of the other answers that are no longer; its parts rank among themselves."""

    capabilities = Capabilities(scores_items_alone=True)

    def bent(self, scores, model):
        lengths = [len(score.prediction) for score in scores]
        return [
            attrs.evolve(score, score=sum(each <= length for each in lengths) / len(lengths))
            for score, length in zip(scores, lengths, strict=True)
        ]


@breaks(Kind.EVALUATOR, "bounded-scores")
class PercentJudge(Judge):
    def bent(self, scores, model):
        return [attrs.evolve(score, score=100 * score.score) for score in scores]


@breaks(Kind.EVALUATOR, "scores-follow-items")
class FatiguedJudge(Judge):
    """Marks later items down."""

    def bent(self, scores, model):
        return [ItemScore(s.item, s.score / (1 + i), s.prediction) for i, s in enumerate(scores)]


# --- strategies ------------------------------------------------------------------------------


def strategy(injector, **fields):
    return Strategy(
        name=f"{injector}-strategy",
        matcher=Choice("depth"),
        aligner=Choice("truncate"),
        injector=Choice(injector),
        summary="a strategy with a broken injector",
        **fields,
    )


INJECTORS = {
    "deterministic": ("dice", DiceInjector),
    "source-unchanged": ("meddling", MeddlingInjector),
    "serialisable": ("tensor", TensorInjector),
    "journalled": ("training", TrainingInjector),
    "rollback": ("late", LateInjector),
    "save-load": ("side", SideInjector),
}
for _law, (_name, _) in INJECTORS.items():
    BROKEN[Kind.STRATEGY, _law] = [strategy(_name)]
BROKEN[Kind.STRATEGY, "well-formed"] = [
    strategy("unregistered"),
    attrs.evolve(strategy("dice"), name="misspelt", matcher=Choice("depth", {"stride": 2})),
    attrs.evolve(strategy("dice"), name="overspent", budget={"epochs": 3}),
    attrs.evolve(strategy("dice"), name="unfinished", injector=None),
    attrs.evolve(strategy("dice"), name="speechless", summary=""),
]
BROKEN[Kind.STRATEGY, "recipe-round-trip"] = [
    attrs.evolve(
        strategy("dice"), name="unwritable", matcher=Choice("depth", {"blocks": frozenset({0, 1})})
    )
]


@hookimpl
def pktkit_knowledge_injectors():
    """Register the injectors that broken strategies name."""
    return [
        Component(name, f"{__name__}:{component.__name__}")
        for name, component in INJECTORS.values()
    ]
