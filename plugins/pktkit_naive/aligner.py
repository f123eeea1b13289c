"""Parts of the source's parameters, cut to the target's shape.

`truncate` keeps what comes first, `slice-by-norm` what has the largest norm; `task-vector` cuts
the difference between the source and the model it was trained from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.capabilities import Capabilities
from pktkit.errors import PairIncompatibleError, UsageError
from pktkit.offloaded import require_held
from pktkit.options import option
from pktkit.pair import LoadedModel, ModelPair, load_model
from pktkit.quantised import require_plain
from pktkit.slicing import LeadingSlicer, NormSlicer, Slicer
from pktkit.updates import DenseUpdate
from pktkit.values import Alignment, LayerMap
from pktkit_naive.draft import Draft

if TYPE_CHECKING:
    from pktkit.probe import Probe
    from pktkit.prospect import Prospect


@attrs.frozen
class TruncateOptions:
    """Truncation has no settings."""


class Truncate:
    """Overwrites linked blocks, embedding, final norm and LM head with the source's, truncated.

    Where the target is larger in a dimension, its own values stay outside the copied part; so do
    parameters that the source lacks. Vocabularies are cut by row, whatever the tokens mean. A
    link with several source blocks uses the one with the largest weight.
    """

    Options = TruncateOptions
    capabilities = Capabilities(
        target_copies=1.0,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=0.0,
    )

    def __init__(self, options: TruncateOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse a source without weights."""
        prospect.require_model("copying parameters")

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return one dense update per target parameter that receives anything."""
        slicer = LeadingSlicer(pair.source.anatomy, pair.target.anatomy)
        return aligned("truncate", pair, layer_map, slicer)


@attrs.frozen
class SliceOptions:
    """Slicing by norm has no settings."""


class SliceByNorm:
    """Keeps the coordinates, heads and neurons of the largest norm (`pktkit.slicing.NormSlicer`).

    As truncation otherwise: what the target has in excess stays its own, vocabularies are cut by
    row.
    """

    Options = SliceOptions
    capabilities = Capabilities(
        target_copies=1.0,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=0.0,
    )

    def __init__(self, options: SliceOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse a source without weights."""
        prospect.require_model("copying parameters")

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return one dense update per target parameter that receives anything."""
        slicer = NormSlicer(pair.source.anatomy, pair.target.anatomy)
        kept = {"kept_coordinates": slicer.residual.source.tolist()}
        return aligned("slice-by-norm", pair, layer_map, slicer, kept)


@attrs.frozen
class TaskVectorOptions:
    """Settings of the task vector."""

    base: str | None = option(
        None, "Directory or hub id of the model that the source was trained from; must be given."
    )


class TaskVector:
    """Adds what training changed in the source, `source − base`, truncated (arXiv 2212.04089).

    The updates hold `target + (source − base)`; the injector `interpolate` scales the vector.
    """

    Options = TaskVectorOptions
    capabilities = Capabilities(
        target_copies=3.0,
        source_copies=1.0,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
    )

    def __init__(self, options: TaskVectorOptions) -> None:
        self.options = options

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Load the base, and return one dense update per target parameter that is reached.

        Raises:
            UsageError: no base is named, or there is no such model.
            PairIncompatibleError: the base has other parameters than the source.
        """
        base = load_base(self._base(), pair.source)
        slicer = LeadingSlicer(pair.source.anatomy, pair.target.anatomy)
        trained = drafted(pair, layer_map, slicer)
        before = drafted(ModelPair(base, pair.target), layer_map, slicer)
        updates, moved = [], 0
        for name, value in trained.values.items():
            vector = value.float() - before.values[name].float()
            own = pair.target.model.get_parameter(name).detach().float()
            # Adding zero would turn −0 into 0, a change of bits where nothing was trained.
            updates.append(DenseUpdate(name, own.where(vector == 0, own + vector)))
            moved += int(vector.count_nonzero())
        return Alignment(
            "task-vector",
            layer_map,
            dense=updates,
            diagnostics={"base": self.options.base, "moved_entries": moved},
        )

    def check(self, prospect: Prospect) -> None:
        """Refuse a source whose weights are not at hand, and a missing base."""
        self._base()
        prospect.require_weights("a task vector")

    def _base(self) -> str:
        if self.options.base:
            return self.options.base
        raise UsageError(
            "the task vector is the source minus the model it was trained from, and no such "
            "model is named. Set it: --set aligner.base=DIRECTORY_OR_HUB_ID.",
            needs="aligner.base=MODEL",
        )


def load_base(reference: str, source: LoadedModel) -> LoadedModel:
    """Load the source's base model in the source's precision, and compare their shapes.

    Raises:
        UsageError: no such model.
        PairIncompatibleError: a parameter is missing, additional, or of another shape, or the
            source is quantised.
    """
    require_plain(source.model, "a task vector")
    require_held(source.model, "a task vector")
    dtype = str(source.model.dtype).removeprefix("torch.")
    base = load_model(reference, dtype=dtype, device=str(source.anatomy.head_weight.device))
    ours, theirs = shapes(source), shapes(base)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise PairIncompatibleError(
                f"base '{reference}' is not what source '{source.name}' was trained from: "
                f"parameter '{name}' is {ours.get(name, 'absent')} in the source and "
                f"{theirs.get(name, 'absent')} in the base."
            )
    return base


def shapes(handle: LoadedModel) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every parameter by name."""
    return {name: tuple(p.shape) for name, p in handle.model.named_parameters()}


def drafted(pair: ModelPair, layer_map: LayerMap, slicer: Slicer) -> Draft:
    """Draw up a copy of the target with all linked parts of the source in it."""
    draft = Draft(pair, slicer)
    for link in layer_map.links:
        draft.block(link)
    draft.ends()
    return draft


def aligned(
    method: str,
    pair: ModelPair,
    layer_map: LayerMap,
    slicer: Slicer,
    diagnostics: Mapping[str, Any] | None = None,
) -> Alignment:
    """Return the drafted parameters as dense updates."""
    draft = drafted(pair, layer_map, slicer)
    total = sum(parameter.numel() for parameter in pair.target.model.parameters())
    return Alignment(
        method,
        layer_map,
        dense=[DenseUpdate(name, value) for name, value in draft.values.items()],
        diagnostics={
            "copied_entries": draft.copied,
            "copied_share": draft.copied / total,
            **(diagnostics or {}),
        },
    )
