"""Readings of a pair, each addressed by all that decides it, taken once, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pktkit.cache import Address
from pktkit.cache.address import code_of, library_versions, reading_code
from pktkit.errors import StrategyError
from pktkit.meter import with_cost, without_cost
from pktkit.probe.identity import model_content, tokenizer_content
from pktkit.states.source import WrittenSource
from pktkit.values import Origin

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.cache import ReadingCache
    from pktkit.pair import LoadedModel, ModelPair


class KeptReadings:
    """Where readings of a pair come from: a written source, the cache, or a pass made now.

    Make it of a pristine pair: what the models are by content is looked at here.

    Arguments:
        pair: the models.
        cache: keeps what is read.
        task: its name, for people.
    """

    def __init__(self, pair: ModelPair, cache: ReadingCache, task: str) -> None:
        self.cache = cache
        self._pair = pair
        self._task = task
        self._tokenizers: dict[Origin, str] = {}
        self._contents = {origin: _content(pair.model(origin)) for origin in Origin}

    def address(
        self,
        reading: str,
        origin: Origin,
        *,
        data: str,
        split: str,
        rows: int,
        batch_size: int | None = None,
        **what: Any,
    ) -> Address:
        """Return the address of what is read of a model: all that decides it.

        Arguments:
            reading: its kind.
            origin: the model.
            data: hash of what the model reads.
            split, rows: for people.
            batch_size: rows that are read together, where the settings decide it.
            what: settings of this kind of reading.
        """
        model = self._pair.model(origin)
        config: Any = model.model.config
        return Address(
            what={
                "reading": reading,
                "model": self._contents[origin],
                "tokenizer": self._tokenizer(origin),
                "data": data,
                "dtype": str(model.model.dtype),
                "layers": list(range(-1, model.anatomy.n_blocks)),
                **what,
            },
            how={
                "code": reading_code(),
                "libraries": library_versions(),
                "device": model.anatomy.head_weight.device.type,
                "attention": str(getattr(config, "_attn_implementation", "")),
                "batch_size": batch_size,
            },
            about={"model": model.name, "task": self._task, "split": split, "rows": rows},
        )

    def shards(
        self,
        origin: Origin,
        address: Address,
        produce: Callable[[], Iterable[Mapping[str, Tensor]]],
    ) -> Sequence[Mapping[str, Tensor]]:
        """Return a reading: what was written of a source, else what the cache gives."""
        model = self._pair.model(origin)
        if isinstance(model, WrittenSource):
            return model.reading(address)
        return self.cache.shards(address, produce)

    def costed(
        self, address: Address, compute: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Return a reading of the source that is one shard, and beside it what it cost."""
        return self.shards(Origin.SOURCE, address, lambda: [with_cost(self._models, compute)])[0]

    def of_source(
        self, address: Address, compute: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Return a reading of the source that is one shard and whose cost each arm counts once."""
        return without_cost(address.key, self.costed(address, compute))

    def derived(
        self, key_parts: Mapping[str, Any], compute: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Return what is derived from weights or readings, see `Probe.cached`."""
        address = Address(
            what={"reading": "derived", "parts": dict(key_parts)},
            how={"code": code_of(compute), "libraries": library_versions()},
            about={"of": key_parts.get("reading", "")},
        )
        kept = self.cache.get(address, lambda: with_cost(self._models, compute))
        return without_cost(address.key, kept)

    def require_unchanged(self, origin: Origin) -> None:
        """Refuse to store states of a changed target as those of the target it was.

        Raises:
            StrategyError: the target is not what it was when this was made.
        """
        if origin is Origin.TARGET and _content(self._pair.target) != self._contents[origin]:
            raise StrategyError(
                "states of the target are read after it was changed. Read them before anything "
                "is injected; StateReader.of_model reads a model as it is."
            )

    @property
    def _models(self) -> tuple[LoadedModel, LoadedModel]:
        return self._pair.source, self._pair.target

    def _tokenizer(self, origin: Origin) -> str:
        """Return the hash of the tokenizer that a model's rows were cut with."""
        model = self._pair.model(origin)
        if isinstance(model, WrittenSource):
            return model.record.tokenizer
        if origin not in self._tokenizers:
            self._tokenizers[origin] = tokenizer_content(model.tokenizer)
        return self._tokenizers[origin]


def _content(model: LoadedModel) -> Mapping[str, str]:
    """Return what determines a model's outputs."""
    return model.record.content if isinstance(model, WrittenSource) else model_content(model)
