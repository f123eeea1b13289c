"""`cka`: which layers of the two models are alike, before and after a transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators

from pktkit import plotting
from pktkit.activations.similarity import CkaMatrix
from pktkit.analysis import AnalysisResult, Table
from pktkit.errors import UsageError
from pktkit.options import option
from pktkit.outcomes import Figure
from pktkit.values import Interface, Origin
from pktkit_latent.analyses.common import extremes, number, token_chunks

if TYPE_CHECKING:
    from pktkit.analysis import AnalysisContext
    from pktkit.probe import StateReader

FEWEST_TOKENS = 4
"""The unbiased estimator divides by `n (n − 3)`."""


@attrs.frozen
class CkaOptions:
    """Settings of the analysis."""

    strategy: str = option(
        "latent-lens", "Transfer between before and after: a strategy or recipe file; '' for none."
    )
    interface: Interface = option(
        Interface.RESIDUAL, "Where states are read: residual stream or block contribution."
    )
    chunk: int = option(
        256, "Tokens per estimate; estimates are averaged.", validator=validators.ge(FEWEST_TOKENS)
    )


class Cka:
    """Linear CKA of every block with every block (arXiv 2510.24208, figures 4 to 6).

    The unbiased minibatch estimator (arXiv 2010.15327), at the positions that predict the
    answer.
    """

    Options = CkaOptions

    def __init__(self, options: CkaOptions) -> None:
        self.options = options

    def analyse(self, context: AnalysisContext) -> AnalysisResult:
        """Return heat maps source × target and target × target; the target is rolled back.

        Raises:
            PairIncompatibleError: the models' positions cannot be paired.
            PktkitError: the transfer failed.
        """
        options = self.options
        strategy = context.strategy(options.strategy) if options.strategy else None
        source = self._reader(context, Origin.SOURCE)
        target = self._reader(context, Origin.TARGET)
        found = self._matrices(context, {"source": source, "target": target})
        data: dict[str, Any] = {
            "interface": options.interface.value,
            "strategy": None if strategy is None else strategy.name,
            "split": context.split,
            "tokens": found.pop("tokens"),
            "source_target": {"before": found["source", "target"]},
            "target_target": {"before": found["target", "target"]},
        }
        if strategy is not None:
            with context.transferred(strategy):
                present = context.present_states(target.blocks, options.interface)
                found = self._matrices(
                    context, {"source": source, "target": target, "after": present}
                )
            data["source_target"]["after"] = found["source", "after"]
            data["target_target"]["after"] = found["after", "after"]
            data["before_after"] = found["target", "after"]
        return AnalysisResult(
            title="Similarity of layers (CKA)",
            markdown=_words(data),
            data=data,
            figures=_figures(data),
            table=_table(data),
        )

    def _reader(self, context: AnalysisContext, origin: Origin) -> StateReader:
        """Open a reader of the pristine model, before anything changes."""
        blocks = range(context.model(origin).anatomy.n_blocks)
        return context.probe.states(
            context.split, blocks, interface=self.options.interface, origin=origin
        )

    def _matrices(
        self, context: AnalysisContext, readers: Mapping[str, StateReader]
    ) -> dict[Any, Any]:
        """Return CKA as nested lists for every ordered pair of streams, and how many tokens."""
        names = list(readers)
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i:] if b != "source"]
        matrices = {
            (a, b): CkaMatrix(len(readers[a].blocks), len(readers[b].blocks)) for a, b in pairs
        }
        tokens = 0
        for chunk in token_chunks(context, list(readers.values()), self.options.chunk):
            states = dict(zip(names, chunk, strict=True))
            count = len(states["target"][0])
            if count < FEWEST_TOKENS:
                raise UsageError(
                    f"split '{context.split}' has {count} answer tokens, CKA needs at least "
                    f"{FEWEST_TOKENS}."
                )
            tokens += count
            for (a, b), matrix in matrices.items():
                matrix.update(states[a], states[b])
        return {"tokens": tokens, **{key: m.values().tolist() for key, m in matrices.items()}}


def _words(data: Mapping[str, Any]) -> str:
    text = (
        f"Linear CKA between blocks at the {data['interface']} interface, on {data['tokens']} "
        f"answer tokens of split `{data['split']}`: 1 for states that are equal up to rotation "
        "and scale, 0 for unrelated ones; unbiased, so that small negative values occur."
    )
    if data["strategy"] is None:
        return text
    return (
        f"{text} After: the target carries a transfer by `{data['strategy']}`, which is then "
        "rolled back. Moved: each block before the transfer with each block after it; the "
        "diagonal says how much a block kept of its states."
    )


def _figures(data: Mapping[str, Any]) -> list[Figure]:
    source_target = _panels(data["source_target"], "source block", "target block")
    target_target = _panels(data["target_target"], "target block", "target block")
    figures = [
        _figure("source-target", source_target, "CKA of source blocks and target blocks"),
        _figure("target-target", target_target, "CKA of the target's blocks among themselves"),
    ]
    if "before_after" in data:
        moved = _panels({"moved": data["before_after"]}, "before", "after")
        figures.append(_figure("moved", moved, "CKA of target blocks before and after"))
    return figures


def _panels(
    matrices: Mapping[str, list[list[float]]], rows: str, columns: str
) -> list[plotting.HeatMap]:
    return [
        plotting.HeatMap(
            name,
            values,
            [str(i) for i in range(len(values))],
            [str(i) for i in range(len(values[0]))],
            rows,
            columns,
        )
        for name, values in matrices.items()
    ]


def _figure(name: str, panels: Sequence[plotting.HeatMap], what: str) -> Figure:
    ranges = "; ".join(
        f"{panel.title}: {extremes(value for row in panel.values for value in row)}"
        for panel in panels
    )
    png = plotting.heat_maps(panels, label="linear CKA")
    return Figure(name, png, f"{what}.", f"Heat maps, {what}. {ranges}.")


def _table(data: Mapping[str, Any]) -> Table:
    """Show, for each target block, the source block most like it, before and after."""
    before = data["source_target"]["before"]
    after = data["source_target"].get("after")
    headings = [
        "target block",
        "most alike before",
        *(["after", "kept of itself"] if after else []),
    ]
    rows = []
    for block in range(len(before[0])):
        row = [str(block), _closest(before, block)]
        if after:
            row += [_closest(after, block), number(data["before_after"][block][block])]
        rows.append(row)
    return Table(headings, rows)


def _closest(matrix: list[list[float]], block: int) -> str:
    column = [row[block] for row in matrix]
    best = max(range(len(column)), key=column.__getitem__)
    return f"source {best}: {number(column[best])}"
