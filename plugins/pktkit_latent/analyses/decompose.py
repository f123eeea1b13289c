"""`decompose`: how well states are recomposed from a model's own vocabulary basis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

import attrs
import torch

from pktkit import plotting
from pktkit.activations.moments import add_gram, mirrored
from pktkit.activations.recording import EMBEDDING
from pktkit.activations.similarity import mean_cosines
from pktkit.analysis import AnalysisResult, Table
from pktkit.options import option
from pktkit.outcomes import Figure
from pktkit.pair import vocab_size
from pktkit.state_maps import AffineMap, unit_length
from pktkit.values import Origin
from pktkit_latent.analyses.common import (
    answer_positions,
    extremes,
    number,
    spread,
    titled,
)
from pktkit_latent.maps import CHUNK, gram, unit_rows
from pktkit_latent.spectral import inverse, spectral

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.analysis import AnalysisContext
    from pktkit.pair import LoadedModel

BASES = ("output", "input", "tight")
_LABELS = {
    "output": "output side (LM head, as published)",
    "input": "input side (embedding)",
    "tight": "output side, whitened (tight)",
}


@attrs.frozen
class DecomposeOptions:
    """Settings of the analysis."""

    fold_norm: bool = option(False, "Multiply the LM head by the final norm's gain first.")
    answers_only: bool = option(True, "Leave the end-of-sequence position out.")


class Decompose:
    """Cosine between a unit state and its recomposition, per block of both models.

    A state is decomposed into cosine coefficients over the unit-normalised semantic basis of its
    own model and recomposed from them (arXiv 2510.24208, figure 2). The output-side basis are
    the rows of the LM head's transposed pseudo-inverse, the input-side basis are the token
    embeddings. The whitened output-side basis is exact, wherever the LM head has full rank.
    """

    Options = DecomposeOptions

    def __init__(self, options: DecomposeOptions) -> None:
        self.options = options

    def analyse(self, context: AnalysisContext) -> AnalysisResult:
        """Return one line per basis and model; as published, and centred."""
        data: dict[str, Any] = {"fold_norm": self.options.fold_norm, "split": context.split}
        for origin in Origin:
            data[origin.value] = self._of_model(context, origin)
        return AnalysisResult(
            title="Recomposition from the vocabulary basis",
            markdown=_words(data),
            data=data,
            figures=(
                _figure(data, "published", "cosine", "Cosine"),
                _figure(data, "centred", "centred", "Centred cosine"),
            ),
            table=_table(data),
        )

    def _of_model(self, context: AnalysisContext, origin: Origin) -> dict[str, Any]:
        model = context.model(origin)
        blocks = (EMBEDDING, *range(model.anatomy.n_blocks))
        reader = context.own_states(origin, blocks)
        encoded = reader.split
        maps = {
            name: AffineMap(matrix, normalise=True)
            for name, matrix in frames(model, fold_norm=self.options.fold_norm).items()
        }

        def batches() -> Iterator[dict[tuple[str, int], tuple[Tensor, Tensor]]]:
            size = context.probe.settings.batch_size
            for start in range(0, len(encoded.items), size):
                rows = range(start, min(start + size, len(encoded.items)))
                states = reader.read(rows)
                kept = torch.ones(len(states[EMBEDDING]), dtype=torch.bool)
                if self.options.answers_only:
                    kept = answer_positions(encoded, rows)
                precise = {b: unit_length(s[kept.to(s.device)].double()) for b, s in states.items()}
                yield {(n, b): (s, m(s)) for n, m in maps.items() for b, s in precise.items()}

        plain = mean_cosines(batches, centred=False)
        centred = mean_cosines(batches)
        return {
            "model": model.name,
            "blocks": list(blocks),
            "cosine": {name: [plain[name, b] for b in blocks] for name in maps},
            "centred": {name: [centred[name, b] for b in blocks] for name in maps},
        }


def frames(model: LoadedModel, *, fold_norm: bool = False) -> dict[str, Tensor]:
    """Return, by basis, the matrix that decomposes and recomposes unit states, fp64 `[D, D]`.

    `S Sᵀ` over the real tokens, with `S` the unit-normalised basis; for `tight` the projection
    onto the basis' span, the identity where the LM head has full rank.
    """
    tokens = vocab_size(model)
    head = model.anatomy.head_weight.detach()[:tokens]
    if fold_norm:
        head = head.double() * model.anatomy.final_norm_gain().to(head.device).double()
    back = inverse(gram(head))
    output = _products(head, back)
    whitening = spectral(output, -0.5)
    return {
        "output": output,
        "input": _products(model.anatomy.embedding.weight.detach()[:tokens]),
        "tight": whitening @ output @ whitening,
    }


def _products(rows: Tensor, back: Tensor | None = None) -> Tensor:
    """Return `S Sᵀ` of rows `[V, D]`, each through `back` `[D, D]` if given and to length one."""
    total = rows.new_zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for start in range(0, rows.shape[0], CHUNK):
        chunk = rows[start : start + CHUNK].double()
        add_gram(total, unit_rows(chunk if back is None else chunk @ back))
    return mirrored(total)


def _name(block: int) -> str:
    return "emb" if block == EMBEDDING else str(block)


def _words(data: Mapping[str, Any]) -> str:
    return (
        "Cosine between a block's state and its recomposition from cosine coefficients over the "
        "model's own vocabulary, on tokens of split "
        f"`{data['split']}`; `emb` is the state before the first block. The output-side basis "
        "comes from the LM head's pseudo-inverse, the input-side basis are the token embeddings. "
        "A whitened (tight) basis recomposes exactly, so that what the published basis lacks is a "
        "matter of its uneven spectrum and not of missing directions. The uncentred cosine, as "
        "published, also counts the mean direction that all tokens share; the centred one does "
        "not."
    )


def _figure(data: Mapping[str, Any], name: str, measure: str, label: str) -> Figure:
    panels = []
    for origin in Origin:
        model = data[origin.value]
        lines = [
            plotting.Line(_LABELS[basis], model[measure][basis], style=i, faint=basis == "tight")
            for i, basis in enumerate(BASES)
        ]
        ticks = [_name(block) for block in model["blocks"]]
        panels.append(plotting.Panel(titled(origin.value, model["model"]), ticks, lines))
    finite = [v for panel in panels for line in panel.lines for v in line.values if isfinite(v)]
    least = min(finite, default=0.0)
    png = plotting.lines(
        panels, label=label.lower(), across="block", span=(min(-0.05, least - 0.05), 1.05)
    )
    ranges = "; ".join(
        f"{origin.value}, {basis} side: {extremes(data[origin.value][measure][basis])}"
        for origin in Origin
        for basis in ("output", "input")
    )
    return Figure(
        name,
        png,
        f"{label} between state and recomposition, per block.",
        f"Lines over the blocks of both models. {ranges}.",
    )


def _table(data: Mapping[str, Any]) -> Table:
    """Show both measures before the first block and at three depths."""
    rows = []
    for origin in Origin:
        model = data[origin.value]
        places = [0, *(1 + place for place in spread(len(model["blocks"]) - 1, 3))]
        places = [places[0], places[1], places[len(places) // 2], places[-1]]
        for basis in BASES:
            cells = [
                f"{number(model['cosine'][basis][i])} ({number(model['centred'][basis][i])})"
                for i in places
            ]
            rows.append((f"{origin.value}, {basis}", *cells))
    return Table(("basis (centred)", "embedding", "first block", "middle", "last block"), rows)
