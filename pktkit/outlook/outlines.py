"""A pair without weights, read from configurations, tokenizers and headers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from pktkit.checkpoints.headers import Stored
from pktkit.checkpoints.locating import Located
from pktkit.checkpoints.outline import Outline, licence_of, outline
from pktkit.checkpoints.spreading import SPREAD
from pktkit.families import Anatomy
from pktkit.pair import LoadedModel, joined
from pktkit.prospect import Prospect
from pktkit.states import holds_states
from pktkit.states.source import open_source

if TYPE_CHECKING:
    from pktkit.compare.plan import PairSpec


@attrs.frozen(eq=False)
class PairOutline:
    """A pair without weights.

    Arguments:
        source, target: what files say.
        prospect: what components are asked about.
    """

    source: Outline
    target: Outline
    prospect: Prospect

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be told of either model, a sentence each."""
        return tuple(dict.fromkeys((*self.source.notes, *self.target.notes)))


def outline_pair(spec: PairSpec) -> PairOutline:
    """Read both models without their weights.

    Raises:
        UsageError: no such model, or a bad configuration or tokenizer.
        PairIncompatibleError: an architecture is not supported.
    """
    code = spec.trust_remote_code
    written = holds_states(spec.source)
    dtype = spec.source_dtype or spec.dtype
    source = _of_states(spec.source) if written else outline(spec.source, dtype=dtype, code=code)
    target = outline(spec.target, dtype=spec.dtype, code=code)
    return PairOutline(
        source,
        target,
        Prospect(
            joined(_handle(source, spec.source), _handle(target, spec.target)),
            source_quant=spec.source_quant,
            source_spread=spec.devices[0] == SPREAD,
            source_written=written,
        ),
    )


def devices(spec: PairSpec) -> tuple[str, str]:
    """Return where source and target are put; of a spread source the host is told."""
    source, target = spec.devices
    return ("cpu" if source == SPREAD else source), target


def _of_states(location: str) -> Outline:
    opened = open_source(location)
    note = f"{opened.name}: only readings were kept of it; which, 'pktkit states info' tells."
    directory = Path(location).expanduser()
    return Outline(
        opened.model,
        opened.tokenizer,
        Located(opened.name, directory),
        Stored(opened.record.dtype.removeprefix("torch.")),
        licence_of(directory),
        (note,),
    )


def _handle(found: Outline, location: str) -> LoadedModel:
    return LoadedModel(
        name=found.files.name,
        model=found.model,
        tokenizer=found.tokenizer,
        anatomy=Anatomy.of(found.model),
        location=location,
        revision=found.files.revision,
    )
