"""The probe: what matchers, aligners and injectors read from the two models."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.cache import Address, ReadingCache
from pktkit.encoding import EncodedSplit
from pktkit.flops import ForwardCost
from pktkit.meter import RowCosts, cost_of, needed, uncounted
from pktkit.offloaded import require_held
from pktkit.pair import LoadedModel, ModelPair
from pktkit.probe.answers import answers, packed, unpacked, with_answers
from pktkit.probe.kept import KeptReadings
from pktkit.probe.passes import (
    attribution_pass,
    forward_pass,
    sensitivity_pass,
    sensitivity_shapes,
)
from pktkit.probe.positions import AlignedPositions
from pktkit.probe.readers import LogitReader, RowIndex, StateReader, Stored, visiting_order
from pktkit.probe.rows import PairRows
from pktkit.probe.scratch import zeros
from pktkit.quantised import require_plain
from pktkit.settings import ProbeSettings
from pktkit.states.source import WrittenSource
from pktkit.tasks.base import Task
from pktkit.values import Interface, Origin

if TYPE_CHECKING:
    from torch import Tensor


class Probe:
    """Readings of a pair on one task, each taken at most once.

    Take it from a pristine pair: what is read of the target is its state before injection.
    Prompts are encoded with the target's tokenizer. A source with another tokenizer reads the
    same text in its own tokens, and its states are those at the positions that `positions` lays
    beside the target's; its logits mean nothing to the target and are refused.
    """

    def __init__(
        self,
        pair: ModelPair,
        task: Task,
        *,
        settings: ProbeSettings | None = None,
        cache: ReadingCache | None = None,
    ) -> None:
        self.pair = pair
        self.task = task
        self.settings = settings or ProbeSettings()
        self._rows = PairRows(pair, task, self.settings)
        self._kept = KeptReadings(pair, cache or ReadingCache(), task.name)
        self._answer_cost: Mapping[str, int] = {}

    def encoded(self, split: str, origin: Origin = Origin.TARGET) -> EncodedSplit:
        """Return a split's token ids by the tokenizer of the target (or of the source)."""
        return self._rows.encoded(split, origin)

    def positions(self, split: str) -> AlignedPositions:
        """Return where a source with another tokenizer is read, beside the target's positions.

        Raises:
            PairIncompatibleError: a tokenizer is not a fast one.
            UsageError: no item of the split fits, or the source has no chat template.
        """
        return self._rows.positions(split)

    def states(
        self,
        split: str,
        blocks: Sequence[int],
        *,
        interface: Interface = Interface.RESIDUAL,
        origin: Origin = Origin.SOURCE,
    ) -> StateReader:
        """Return a reader of block states at the predicting positions of a split.

        Rows and positions are the target's. Where the source has another tokenizer, its states
        are those of its last token that has read no more text than the target has.

        Raises:
            PairIncompatibleError: the tokenizers differ and one is not a fast one.
        """
        encoded, picks, exact = self._rows.read(split, origin), None, 1.0
        if self._rows.foreign(origin):
            picks, exact = self.positions(split).picks, self.positions(split).exact_share
        model, index = self.pair.model(origin), RowIndex.of(encoded, visiting_order(encoded), picks)
        dtype, noted = model.model.dtype, self._noted(split, origin)
        reader = StateReader(
            encoded, tuple(blocks), interface, index, dtype, None, None, exact, noted
        )
        if isinstance(model, WrittenSource) or self._states_fit(encoded, model):
            reader.stored = self.forward(split, origin, blocks=reader.read_blocks)
        else:
            reader.live = self._live(origin)
        return reader

    def logits(self, split: str, origin: Origin = Origin.SOURCE) -> LogitReader:
        """Return a reader of logits at the predicting positions of a split.

        Raises:
            PairIncompatibleError: source logits are asked for and the tokenizers differ.
        """
        if origin is Origin.SOURCE:
            self.pair.require_logits()
        encoded = self.encoded(split)
        stored = None
        if isinstance(self.pair.model(origin), WrittenSource) or self._logits_fit(split, origin):
            stored = self.forward(split, origin, blocks=(), logits=True)
        live = None if stored is not None else self._live(origin)
        index = RowIndex.of(encoded, visiting_order(encoded))
        return LogitReader(encoded, index, stored, live, self._noted(split, origin, logits=True))

    @functools.cached_property
    def answered(self) -> Probe:
        """The probe of the same pair whose `train` split also holds the source's own answers.

        The items as they are come first, then the same items answered by the source; their ids
        end in `pktkit.probe.answers.SUFFIX`.
        """
        limit = self.settings.row_limit
        items = self._rows.items("train")
        asked = [(item.prompt, item.choices) for item in items]
        data = json.dumps([asked, self.task.template, self.task.max_new_tokens])
        address = self._kept.address(
            "answers",
            Origin.SOURCE,
            data=hashlib.sha256(data.encode()).hexdigest(),
            split="train",
            rows=len(items),
        )
        source = self.pair.source
        kept = self._kept.costed(address, lambda: packed(answers(source, self.task, items)))
        texts = unpacked(kept)
        self._answer_cost = cost_of(kept)
        return Probe(
            self.pair,
            with_answers(self.task, "train", texts, limit),
            settings=attrs.evolve(self.settings, row_limit=None),
            cache=self._kept.cache,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the length limit did to the rows encoded so far, a sentence per split."""
        notes = self._rows.notes
        if "answered" in self.__dict__:
            notes += self.answered.notes
        return tuple(dict.fromkeys(notes))

    def count_answers(self, asked: int) -> None:
        """Tell the meter how many of the source's answers an arm needs, at their mean cost.

        All prompts of the split are answered together, once for every arm that asks for some.
        """
        self.answered  # noqa: B018  what they cost is known when they are there
        total = len(self._rows.items("train"))
        share = {side: flops * asked // total for side, flops in self._answer_cost.items()}
        needed(("answers",), share)

    def attribution(self, split: str = "extract") -> Tensor:
        """Return gradient × activation of the source's blocks, `[items, L_src]`."""
        return self._attributed(split)["attribution"]

    def fisher(self, split: str = "extract") -> Tensor:
        """Return `Σ (gradient × activation)²` of the source's blocks, `[items, L_src]`, fp64."""
        return self._attributed(split)["fisher"]

    def source_loss(self, split: str = "extract") -> Tensor:
        """Return the source's mean answer cross-entropy per item, `[items]`, in nats."""
        return self._attributed(split)["loss"]

    def sensitivities(self, split: str = "extract") -> Mapping[str, Tensor]:
        """Return `Σ_j |w · ∂L_j/∂w|` for every source parameter, fp32 on the CPU.

        A tensor may be mapped from the cache's file: it is for reading only.

        Raises:
            NonFiniteError: a loss or gradient is not finite; names the item.
            PairIncompatibleError: the source is quantised, or not all of it is in memory.
        """
        encoded, source = self.encoded(split, Origin.SOURCE), self.pair.source
        require_plain(source.model, "sensitivity of the source's weights")
        require_held(source.model, "sensitivity of the source's weights")

        def compute() -> Mapping[str, Tensor]:
            totals = zeros(sensitivity_shapes(source), self._kept.cache.directory)
            sensitivity_pass(source, encoded, totals)
            return totals

        return self._kept.of_source(self._source_address("sensitivity", encoded), compute)

    def cached(
        self, key_parts: Mapping[str, Any], compute: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Return tensors that are computed once and kept where readings are kept.

        The code of the package that `compute` is defined in becomes part of the address.

        Arguments:
            key_parts: everything else that the tensors depend on, a name of the computation
                included; JSON-serialisable.
            compute: called unless the tensors are known; its result may come back on the CPU.
        """
        return self._kept.derived(key_parts, compute)

    def forward(
        self,
        split: str,
        origin: Origin = Origin.SOURCE,
        *,
        blocks: Sequence[int],
        logits: bool = False,
    ) -> Stored:
        """Return a stored reading that holds the states after blocks, and logits if asked for.

        One pass reads all blocks and, where they fit, the logits, so that the next who asks finds
        them. Of a source that was written to disk there is what was written.

        Raises:
            UsageError: the source was written to disk without what is asked for.
        """
        encoded, model = self._rows.read(split, origin), self.pair.model(origin)
        if isinstance(model, WrittenSource):
            where = self.task.name, split
            data = encoded.fingerprint()
            return Stored(model.forward(*where, data, blocks=blocks, logits=logits))
        with_logits = origin is Origin.SOURCE and not self._rows.foreign(origin)
        together = logits or (with_logits and self._logits_fit(split, origin))
        return self.forward_exactly(
            split, origin, blocks=range(-1, model.anatomy.n_blocks), logits=together
        )

    def forward_exactly(
        self, split: str, origin: Origin, *, blocks: Sequence[int], logits: bool
    ) -> Stored:
        """Return a stored reading of the given blocks (-1 is the stream before the first)."""
        encoded, model = self._rows.read(split, origin), self.pair.model(origin)
        settings = self.settings
        address = self._kept.address(
            "forward",
            origin,
            data=encoded.fingerprint(),
            layers=list(blocks),
            state_dtype=settings.state_dtype,
            logits=logits,
            batch_size=settings.batch_size,
            split=split,
            rows=len(encoded.items),
        )

        def produce() -> Iterable[Mapping[str, Tensor]]:
            self._kept.require_unchanged(origin)
            return forward_pass(model, encoded, settings, blocks=blocks, logits=logits)

        with uncounted():  # rows count when they are read
            return Stored(self._kept.shards(origin, address, produce))

    def _noted(self, split: str, origin: Origin, *, logits: bool = False) -> RowCosts:
        """Return what counts the rows of a split that an arm reads."""
        cost = ForwardCost.of(self.pair.model(origin).anatomy)
        return RowCosts(str(origin), self._rows.read(split, origin), cost, logits)

    def _live(self, origin: Origin) -> LoadedModel:
        """Return a model to read from; the target is copied, because it is about to change."""
        model = self.pair.model(origin)
        if origin is Origin.SOURCE:
            return model
        from pktkit.families import Anatomy

        frozen = copy.deepcopy(model.model).requires_grad_(False).eval()
        return attrs.evolve(model, model=frozen, anatomy=Anatomy.of(frozen))

    def _state_size(self, model: LoadedModel) -> int:
        return 2 if self.settings.state_dtype == "bfloat16" else _element_size(model)

    def _fits(self, size: int) -> bool:
        return size <= self.settings.max_bytes and self._kept.cache.holds(size)

    def _states_fit(self, encoded: EncodedSplit, model: LoadedModel) -> bool:
        tokens = sum(item.supervised_count for item in encoded.items)
        states = model.anatomy.width * (model.anatomy.n_blocks + 1)
        return self._fits(tokens * states * self._state_size(model))

    def _logits_fit(self, split: str, origin: Origin) -> bool:
        model = self.pair.model(origin)
        tokens = sum(item.supervised_count for item in self.encoded(split).items)
        return self._fits(tokens * model.anatomy.vocab_rows * _element_size(model))

    def _attributed(self, split: str) -> Mapping[str, Tensor]:
        encoded = self.encoded(split, Origin.SOURCE)
        return self._kept.of_source(
            self._source_address("attribution", encoded),
            lambda: attribution_pass(self.pair.source, encoded),
        )

    def _source_address(self, reading: str, encoded: EncodedSplit) -> Address:
        return self._kept.address(
            reading,
            Origin.SOURCE,
            data=encoded.fingerprint(),
            split=encoded.name,
            rows=len(encoded.items),
        )


def _element_size(model: LoadedModel) -> int:
    return int(model.anatomy.embedding.weight.element_size())
