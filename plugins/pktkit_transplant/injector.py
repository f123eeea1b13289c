"""The injector `transplant`: source blocks in the target's coordinates, blended in, untrained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs
from attrs import validators

from pktkit.capabilities import Capabilities
from pktkit.errors import NonFiniteError, UsageError, unknown_name
from pktkit.families import PROJECTIONS
from pktkit.options import option
from pktkit.touched import Touched
from pktkit.values import Injection
from pktkit_transplant.bases import changes
from pktkit_transplant.blocks import Deltas, transplanted
from pktkit_transplant.fitness import require_modules, require_rank, require_same_mechanism
from pktkit_transplant.maps import residual_maps
from pktkit_transplant.strength import Tried, blended, search

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pktkit.journal import Journal
    from pktkit.pair import LoadedModel
    from pktkit.prospect import Prospect
    from pktkit.training import TransferData
    from pktkit.values import Alignment
    from pktkit_transplant.maps import Change

AUTO = "auto"


def _share_or_auto(instance: object, attribute: attrs.Attribute[object], value: object) -> None:
    if value == AUTO:
        return
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{attribute.name} must be a number from 0 to 1, or auto, got {value!r}.")


def _known_modules(
    instance: object, attribute: attrs.Attribute[object], value: Sequence[str]
) -> None:
    if not value:
        raise UsageError(f"modules names no projection. Choose from {', '.join(PROJECTIONS)}.")
    for name in value:
        if name not in PROJECTIONS:
            raise unknown_name("module", name, PROJECTIONS)


@attrs.frozen
class TransplantOptions:
    """Settings of the transplant."""

    strength: float | Literal["auto"] = option(
        AUTO,
        "Share s of the change: W becomes W + s ΔW; auto takes the best on dev rows, maybe 0.",
        validator=_share_or_auto,
    )
    rank: int | None = option(
        16,
        "Rank each weight's change is truncated to; null keeps it whole.",
        validator=validators.optional(validators.ge(1)),
    )
    ridge: float = option(
        1e-2,
        "Damping of inverted maps, as a share of the mean squared singular value.",
        validator=validators.ge(0),
    )
    modules: tuple[str, ...] = option(
        PROJECTIONS,
        "Projections to rewrite, out of q k v o gate up down.",
        validator=_known_modules,
    )
    dev_rows: int = option(
        256, "Rows of the dev split that strength auto looks at.", validator=validators.ge(1)
    )


class Transplant:
    """Rewrites linked target blocks as their source blocks, through maps between their states.

    Any aligner serves whose target states are affine maps of the residual stream. Embedding, norms
    of the residual stream and LM head stay the target's.
    """

    Options = TransplantOptions
    capabilities = Capabilities(strength_option="strength")

    def __init__(self, options: TransplantOptions) -> None:
        self.options = options

    def touches(self, target: LoadedModel, aligner: object) -> Touched:
        """Return what is written."""
        return Touched.written(target)

    def check(self, prospect: Prospect) -> None:
        """Refuse blocks that compute something else, and a module or rank the target has not."""
        prospect.require_model("copying blocks")
        source, target = prospect.pair.source.anatomy, prospect.pair.target.anatomy
        require_same_mechanism(source, target, self.options.modules)
        require_modules(target, self.options.modules)
        require_rank(target, self.options.modules, self.options.rank)

    def inject(
        self, target: LoadedModel, alignment: Alignment, data: TransferData, journal: Journal
    ) -> Injection:
        """Blend the rewritten blocks in; at strength 0 the target keeps its bits.

        Raises:
            StrategyError: the alignment has no maps that can be inverted.
            UsageError: the maps are of something else than the residual stream, a module asked
                for is none of the family's, or the rank is above a matrix.
            PairIncompatibleError: halves of the blocks compute different things.
            NonFiniteError: a map, a state, a new weight or a loss is not finite.
        """
        options = self.options
        deltas, bases = self._deltas(target, alignment, data)
        if options.strength == AUTO:
            tried = search(target, deltas.values, data, options.dev_rows)
        else:
            tried = Tried(float(options.strength), {}, 0)
        relative = _relative(target, deltas)
        if tried.strength:
            for name, delta in deltas.values.items():
                journal.write(name, blended(journal.parameter(name), delta, tried.strength))
        return Injection(
            method="transplant",
            diagnostics=_diagnostics(options, tried, deltas, bases, relative)
            | {"parameters_changed": len(journal.changed())},
        )

    def _deltas(
        self, target: LoadedModel, alignment: Alignment, data: TransferData
    ) -> tuple[Deltas, Mapping[int, Change]]:
        """Return what strength 1 would add to each parameter, and the changes of basis."""
        options, source = self.options, data.probe.pair.source.anatomy
        maps = residual_maps(alignment)
        require_same_mechanism(source, target.anatomy, options.modules)
        require_modules(target.anatomy, options.modules)
        require_rank(target.anatomy, options.modules, options.rank)
        assert alignment.target_states is not None
        layer_map = alignment.target_states.layer_map
        bases = changes(maps, layer_map, data.probe, ridge=options.ridge)
        deltas = transplanted(
            source,
            target.anatomy,
            layer_map.links,
            bases,
            modules=options.modules,
            rank=options.rank,
        )
        _require_some(deltas, alignment, options, target)
        _require_finite(deltas)
        return deltas, bases


def _require_some(
    deltas: Deltas, alignment: Alignment, options: TransplantOptions, target: LoadedModel
) -> None:
    if not deltas.values:
        raise UsageError(
            f"injector 'transplant' has nothing to rewrite: modules "
            f"{', '.join(options.modules) or 'none'} out of "
            f"{', '.join(target.anatomy.projection_names)}, and layer map "
            f"'{alignment.layer_map}' with maps by aligner '{alignment.method}'. Set "
            "--set injector.modules=…, or another matcher."
        )


def _require_finite(deltas: Deltas) -> None:
    for name, delta in deltas.values.items():
        if not bool(delta.isfinite().all()):
            raise NonFiniteError(
                f"the transplanted values of parameter '{name}' are not finite. A larger "
                "--set injector.ridge damps maps that are close to singular."
            )


def _relative(target: LoadedModel, deltas: Deltas) -> Mapping[str, float]:
    """Return `‖Δ‖ / ‖W‖` (Frobenius norms) by parameter, at strength 1."""
    return {
        name: float(
            delta.norm() / target.model.get_parameter(name).detach().float().norm().clamp(min=1e-30)
        )
        for name, delta in deltas.values.items()
    }


def _diagnostics(
    options: TransplantOptions,
    tried: Tried,
    deltas: Deltas,
    bases: Mapping[int, Change],
    relative: Mapping[str, float],
) -> dict[str, object]:
    return {
        "strength": tried.strength,
        "chosen_on": f"{tried.rows} dev rows" if tried.losses else "given",
        "dev_loss": {f"{strength:g}": loss for strength, loss in tried.losses.items()},
        "unchanged": tried.strength == 0,
        "rank": options.rank,
        "modules": list(options.modules),
        "blocks": sorted(bases),
        "length_ratio": {str(block): change.ratio for block, change in bases.items()},
        "kept_energy": dict(deltas.kept),
        "relative_change": dict(relative),
    }
