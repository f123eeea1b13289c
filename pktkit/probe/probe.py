"""The probe: what matchers, aligners and injectors read from the two models."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.encoding import EncodedSplit, encode_split
from pktkit.pair import LoadedModel, ModelPair, weights_hash
from pktkit.probe.cache import ReadingCache, reading_key
from pktkit.probe.passes import (
    attribution_pass,
    forward_pass,
    sensitivity_pass,
    sensitivity_shapes,
)
from pktkit.probe.readers import LogitReader, RowIndex, StateReader
from pktkit.probe.scratch import zeros
from pktkit.settings import ProbeSettings
from pktkit.tasks.base import Task
from pktkit.values import Interface, Origin

if TYPE_CHECKING:
    from torch import Tensor


class Probe:
    """Readings of a pair on one task, each taken at most once.

    Take it from a pristine pair: what is read of the target is its state before injection.
    Prompts are encoded with the target's tokenizer; reading the source by position therefore
    needs equal tokenizers, which is checked when the source's states or logits are asked for.
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
        self._cache = cache or ReadingCache()
        self._encoded: dict[tuple[str, Origin], EncodedSplit] = {}
        self._hashes = {
            Origin.SOURCE: _content(pair.source),
            Origin.TARGET: _content(pair.target),
        }

    def encoded(self, split: str, origin: Origin = Origin.TARGET) -> EncodedSplit:
        """Return a split's token ids by the tokenizer of the target (or of the source)."""
        if (split, origin) not in self._encoded:
            items = self.task.items(split)[: self.settings.row_limit]
            self._encoded[split, origin] = encode_split(
                self._model(origin).tokenizer,
                items,
                name=split,
                join=self.task.template,
                max_length=self.settings.max_length,
            )
        return self._encoded[split, origin]

    def states(
        self,
        split: str,
        blocks: Sequence[int],
        *,
        interface: Interface = Interface.RESIDUAL,
        origin: Origin = Origin.SOURCE,
    ) -> StateReader:
        """Return a reader of block states at the predicting positions of a split.

        Raises:
            PairIncompatibleError: source states are asked for and the tokenizers differ.
        """
        self._require_positions(origin, "states of the source")
        encoded = self.encoded(split)
        model = self._model(origin)
        tokens = sum(item.supervised_count for item in encoded.items)
        width, depth = model.anatomy.width, model.anatomy.n_blocks
        size = tokens * width * (depth + 1) * _element_size(model)
        stored = self._forward(split, origin, logits=False) if self._fits(size) else None
        live = None if stored is not None else self._live(origin)
        return StateReader(encoded, tuple(blocks), interface, RowIndex.of(encoded), stored, live)

    def logits(self, split: str, origin: Origin = Origin.SOURCE) -> LogitReader:
        """Return a reader of logits at the predicting positions of a split.

        Raises:
            PairIncompatibleError: source logits are asked for and the tokenizers differ.
        """
        self._require_positions(origin, "logits of the source")
        encoded = self.encoded(split)
        stored = None
        if self._logits_fit(split, origin):
            stored = self._forward(split, origin, logits=True)
        live = None if stored is not None else self._live(origin)
        return LogitReader(encoded, RowIndex.of(encoded), stored, live)

    def attribution(self, split: str = "extract") -> Tensor:
        """Return gradient × activation of the source's blocks, `[items, L_src]`."""
        return self._attributed(split)["attribution"]

    def source_loss(self, split: str = "extract") -> Tensor:
        """Return the source's mean answer cross-entropy per item, `[items]`, in nats."""
        return self._attributed(split)["loss"]

    def sensitivities(self, split: str = "extract") -> Mapping[str, Tensor]:
        """Return `Σ_j |w · ∂L_j/∂w|` for every source parameter, fp32 on the CPU.

        A tensor may be mapped from the cache's file: it is for reading only.

        Raises:
            NonFiniteError: a loss or gradient is not finite; names the item.
        """
        encoded, source = self.encoded(split, Origin.SOURCE), self.pair.source

        def compute() -> Mapping[str, Tensor]:
            totals = zeros(sensitivity_shapes(source), self._cache.directory)
            sensitivity_pass(source, encoded, totals)
            return totals

        return self._cache.get(self._source_key("sensitivity", encoded), compute)

    def _model(self, origin: Origin) -> LoadedModel:
        return self.pair.source if origin is Origin.SOURCE else self.pair.target

    def _live(self, origin: Origin) -> LoadedModel:
        """Return a model to read from; the target is copied, because it is about to change."""
        model = self._model(origin)
        if origin is Origin.SOURCE:
            return model
        from pktkit.families import Anatomy

        frozen = copy.deepcopy(model.model).requires_grad_(False).eval()
        return attrs.evolve(model, model=frozen, anatomy=Anatomy.of(frozen))

    def _require_positions(self, origin: Origin, what: str) -> None:
        if origin is Origin.SOURCE:
            self.pair.require_same_tokenizer(what)

    def _fits(self, size: int) -> bool:
        return size <= self.settings.max_bytes

    def _logits_fit(self, split: str, origin: Origin) -> bool:
        model = self._model(origin)
        tokens = sum(item.supervised_count for item in self.encoded(split).items)
        return self._fits(tokens * model.anatomy.vocab_rows * _element_size(model))

    def _forward(self, split: str, origin: Origin, *, logits: bool) -> Mapping[str, Tensor]:
        """Take states and, where they fit, logits in one pass."""
        together = logits or (origin is Origin.SOURCE and self._logits_fit(split, origin))
        encoded, model = self.encoded(split), self._model(origin)
        key = reading_key(
            reading="forward",
            weights=self._hashes[origin],
            data=encoded.fingerprint(),
            dtype=str(model.model.dtype),
            logits=together,
        )
        return self._cache.get(
            key,
            lambda: forward_pass(
                model, encoded, batch_size=self.settings.batch_size, logits=together
            ),
        )

    def _attributed(self, split: str) -> Mapping[str, Tensor]:
        encoded = self.encoded(split, Origin.SOURCE)
        return self._cache.get(
            self._source_key("attribution", encoded),
            lambda: attribution_pass(self.pair.source, encoded),
        )

    def _source_key(self, reading: str, encoded: EncodedSplit) -> str:
        return reading_key(
            reading=reading,
            weights=self._hashes[Origin.SOURCE],
            data=encoded.fingerprint(),
            dtype=str(self.pair.source.model.dtype),
        )


def _content(model: LoadedModel) -> str:
    """Return what determines a model's outputs: its weights and its configuration."""
    config = model.model.config.to_dict()
    config.pop("_name_or_path", None)
    return f"{weights_hash(model.model)} {json.dumps(config, sort_keys=True, default=str)}"


def _element_size(model: LoadedModel) -> int:
    return int(model.anatomy.embedding.weight.element_size())
