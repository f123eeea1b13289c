"""The protocol of each stage: what a component's class must do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pktkit.analysis import AnalysisContext, AnalysisResult
    from pktkit.journal import Journal
    from pktkit.outcomes import ItemScore
    from pktkit.pair import LoadedModel, ModelPair
    from pktkit.probe import Probe
    from pktkit.tasks.base import Task
    from pktkit.training import TransferData
    from pktkit.values import Alignment, Injection, LayerMap


@runtime_checkable
class LayerMatcher(Protocol):
    """Chooses, for target blocks, the source blocks whose knowledge they receive."""

    Options: ClassVar[type]

    def match(self, pair: ModelPair, probe: Probe) -> LayerMap:
        """Return the layer map of `pair`."""


@runtime_checkable
class LatentAligner(Protocol):
    """Expresses the source's knowledge in the target's space."""

    Options: ClassVar[type]

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return target states, parameter updates, or both. Neither model is changed."""


@runtime_checkable
class KnowledgeInjector(Protocol):
    """Writes an alignment into the target, through the journal only."""

    Options: ClassVar[type]

    def inject(
        self, target: LoadedModel, alignment: Alignment, data: TransferData, journal: Journal
    ) -> Injection:
        """Change `target` and report what was done."""


@runtime_checkable
class Evaluator(Protocol):
    """Scores a model on the items of a task."""

    Options: ClassVar[type]

    def evaluate(self, model: LoadedModel, task: Task, split: str) -> Sequence[ItemScore]:
        """Return one score per item of `split`, in the split's order."""


@runtime_checkable
class Analysis(Protocol):
    """Draws what there is to see in a pair: figures, and the numbers behind them."""

    Options: ClassVar[type]

    def analyse(self, context: AnalysisContext) -> AnalysisResult:
        """Return title, words, data and figures. Both models are left as they were."""
