"""`alignment`: how close mapped source states come to the target's own, map by map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, Any

import attrs

from pktkit import plotting
from pktkit.analysis import AnalysisResult, Table
from pktkit.components import Choice, Kind
from pktkit.errors import PktkitError, StrategyError, UsageError
from pktkit.options import describe_options, option
from pktkit.outcomes import Figure
from pktkit.recipe import parse_choice
from pktkit.values import Interface, LayerMap, Space, TargetStates
from pktkit_latent.analyses.common import extremes, number, spread
from pktkit_latent.analyses.meetings import SAME, SHUFFLED, Meetings, Met

if TYPE_CHECKING:
    from pktkit.analysis import AnalysisContext

DEFAULT_MAPS: Mapping[str, Choice] = {
    **{name: Choice("semantic", {"map": name}) for name in ("unit", "tight", "dual", "lens")},
    **{
        f"{name}, folded": Choice("semantic", {"map": name, "fold_norm": True})
        for name in ("unit", "tight", "dual", "lens")
    },
    "random": Choice("semantic", {"map": "lens", "placebo": "random-map"}),
    "ridge": Choice("ridge"),
    "procrustes": Choice("procrustes"),
    "cca": Choice("cca"),
}
"""Vocabulary maps, with and without the final norm folded into the LM heads; a meaningless map
of equal norm; and maps fitted on states of split `align`."""


@attrs.frozen
class AlignmentOptions:
    """Settings of the analysis."""

    maps: Mapping[str, Any] | None = option(
        None, "By label, an aligner as in a recipe: a name, or {name: …, option: …}; null for all."
    )
    matcher: str = option("depth", "Which blocks are paired.")
    interface: Interface = option(
        Interface.RESIDUAL, "Where states are read: residual stream or block contribution."
    )
    answers_only: bool = option(True, "Leave the end-of-sequence position out.")
    seed: int | None = option(None, "Of the permutation of items; null takes the run's seed.")


@attrs.frozen
class _Candidate:
    """A map under test, or the reason why it is not."""

    label: str
    choice: Choice
    states: TargetStates | None = None
    reason: str = ""


class AlignmentQuality:
    """Centred cosine between the target's own state and the mapped source state.

    On tokens that no map was fitted on, beside the control in which each item's target states
    meet another item's source states. Uncentred cosines are high for any pair of items.
    """

    Options = AlignmentOptions

    def __init__(self, options: AlignmentOptions) -> None:
        self.options = options

    def analyse(self, context: AnalysisContext) -> AnalysisResult:
        """Return cosine and shuffled control of every map at every linked block.

        Raises:
            UsageError: a map is written wrongly, or there are fewer than two items.
            PktkitError: no map at all could be tried; the reason of the first.
        """
        matcher = context.registry.build(
            Kind.MATCHER, context.choice(Kind.MATCHER, Choice(self.options.matcher))
        )
        layer_map: LayerMap = matcher.match(context.pair, context.probe)
        candidates = [
            self._candidate(context, label, choice, layer_map)
            for label, choice in self._choices().items()
        ]
        usable = [candidate for candidate in candidates if candidate.states is not None]
        if not usable:
            reasons = "; ".join(f"{c.label}: {c.reason}" for c in candidates)
            raise StrategyError(f"none of the maps can be tried. {reasons}")
        data = self._measured(context, usable, layer_map)
        data["missing"] = [
            {"label": c.label, "aligner": c.choice.name, "reason": c.reason}
            for c in candidates
            if c.states is None
        ]
        return AnalysisResult(
            title="Alignment of states",
            markdown=_words(data),
            data=data,
            figures=(_figure(data),),
            table=_table(data),
        )

    def _choices(self) -> Mapping[str, Choice]:
        if self.options.maps is None:
            return DEFAULT_MAPS
        choices = {}
        for label, written in self.options.maps.items():
            choice = parse_choice(written, f"alignment.maps, '{label}'", Kind.ALIGNER)
            if choice is None:
                raise UsageError(f"alignment.maps, '{label}': an aligner's name is missing.")
            choices[str(label)] = choice
        return choices

    def _candidate(
        self, context: AnalysisContext, label: str, choice: Choice, layer_map: LayerMap
    ) -> _Candidate:
        """Build a map; what keeps it from being tried becomes its reason."""
        registry = context.registry
        if choice.name not in registry.names(Kind.ALIGNER):
            return _Candidate(label, choice, reason="not installed")
        try:
            fields = describe_options(registry.options_class(Kind.ALIGNER, choice.name))
            if "interface" in {field.name for field in fields}:
                interface = {"interface": self.options.interface.value}
                choice = attrs.evolve(choice, options={**interface, **choice.options})
            choice = context.choice(Kind.ALIGNER, choice)
            aligner = registry.build(Kind.ALIGNER, choice)
            states = aligner.align(context.pair, layer_map, context.probe).target_states
        except PktkitError as error:
            return _Candidate(label, choice, reason=str(error))
        reason = _objection(states, self.options.interface)
        return _Candidate(label, choice, None if reason else states, reason)

    def _measured(
        self, context: AnalysisContext, usable: Sequence[_Candidate], layer_map: LayerMap
    ) -> dict[str, Any]:
        meetings = Meetings.of(
            context,
            {c.label: c.states for c in usable if c.states is not None},
            self.options.interface,
            answers_only=self.options.answers_only,
            seed=self.options.seed or 0,
        )
        blocks = meetings.blocks
        return {
            "interface": self.options.interface.value,
            "split": context.split,
            "items": len(context.probe.encoded(context.split).items),
            "tokens": meetings.tokens,
            "exact_positions": meetings.exact_share,
            "layer_map": str(layer_map),
            "pairs": [{"target": b, "sources": list(layer_map.link(b).sources)} for b in blocks],
            "maps": _rows(usable, blocks, meetings.cosines()),
        }


def _rows(
    usable: Sequence[_Candidate], blocks: Sequence[int], cosines: Mapping[Met, float]
) -> list[dict[str, Any]]:
    """Write what was measured of each map, by block; NaN where it reaches none."""
    return [
        {
            "label": c.label,
            "aligner": c.choice.name,
            "options": {key: str(value) for key, value in c.choice.options.items()},
            **{
                pairing: [cosines.get((c.label, block, pairing), nan) for block in blocks]
                for pairing in (SAME, SHUFFLED)
            },
        }
        for c in usable
    ]


def _objection(states: TargetStates | None, interface: Interface) -> str:
    """Say why mapped states cannot be compared with the target's own, or nothing."""
    if states is None:
        return "it gives no target states"
    if not states.blocks:
        return "it maps no block"
    if states.space is not Space.TARGET:
        return "its states stay in the source's space"
    if states.interface is not interface:
        return f"it works at the {states.interface.value} interface only"
    return ""


def _words(data: Mapping[str, Any]) -> str:
    text = (
        "Mean centred cosine between the target's own state and the mapped source state at the "
        f"{data['interface']} interface, on {data['tokens']} answer tokens of {data['items']} "
        f"items of split `{data['split']}`, which no map was fitted on. Beside it the shuffled "
        "control: the same target states with another item's source states. Blocks are paired "
        f"by {data['layer_map']} (source→target)."
    )
    if data["exact_positions"] < 1:
        text += (
            " The tokenizers differ: the source is read at the nearest earlier position, at "
            f"{100 * data['exact_positions']:.0f} % of the positions after exactly the same text."
        )
    reasons = [f"{each['label']} ({each['reason'].rstrip('.')})" for each in data["missing"]]
    return f"{text}\n\nNot shown: {'; '.join(reasons)}." if reasons else text


def _heads(data: Mapping[str, Any]) -> list[str]:
    return [f"{'+'.join(map(str, pair['sources']))}→{pair['target']}" for pair in data["pairs"]]


def _figure(data: Mapping[str, Any]) -> Figure:
    labels = [entry["label"] for entry in data["maps"]]
    panels = [
        plotting.HeatMap(
            title,
            [entry[key] for entry in data["maps"]],
            labels,
            _heads(data),
            column_title="source→target block",
        )
        for key, title in ((SAME, "same item"), (SHUFFLED, "shuffled control"))
    ]
    return Figure(
        "maps",
        plotting.heat_maps(panels, label="centred cosine"),
        "Centred cosine of mapped source states and the target's own, and the shuffled control.",
        "Heat maps, one row per map. "
        + "; ".join(f"{entry['label']}: {extremes(entry[SAME])}" for entry in data["maps"])
        + ".",
    )


def _table(data: Mapping[str, Any]) -> Table:
    heads = _heads(data)
    chosen = spread(len(heads))
    rows = [
        (
            entry["label"],
            *(f"{number(entry[SAME][i])} ({number(entry[SHUFFLED][i])})" for i in chosen),
        )
        for entry in data["maps"]
    ]
    return Table(("map (shuffled)", *(heads[i] for i in chosen)), rows)
