"""Reading rows of tokens with a key-value cache: prefixes first, then on from there."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pktkit.activations.recording import head_reads
from pktkit.encoding import padding_id

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pktkit.pair import LoadedModel


LEAST_HEADER = 32
"""Tokens that all rows of a batch must begin with to be read once for all of them."""


class CachedReader:
    """Rows of unequal length in one batch, padded on the left, read on together.

    What all rows begin with, such as the examples of a few-shot prompt, is read once.

    Arguments:
        model: in eval mode; gradients are the caller's business.
        rows: token ids of each row, none of them empty.
    """

    def __init__(self, model: LoadedModel, rows: Sequence[Sequence[int]]) -> None:
        self._model = model
        parameters = inspect.signature(model.model.forward).parameters
        # what this version of transformers calls the key-value cache
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        # relative positions (ALiBi) are counted from the mask alone
        self._counts_positions = "position_ids" in parameters
        self._cache: Any = None
        self._rows = rows
        self._read_mask = self._positions = cast("Tensor", None)

    def start(self, *, go_on: bool) -> Tensor:
        """Read the rows and return the logits `[rows, V]` that follow each.

        Arguments:
            go_on: whether `read` will be called, so that a cache is needed.
        """
        header = self._header()
        pad_id = padding_id(self._model.tokenizer)
        ids, mask = left_padded([row[header:] for row in self._rows], pad_id, self._device)
        if header:
            first, self._read_mask = left_padded([self._rows[0][:header]], pad_id, self._device)
            self._positions = self._read_mask.cumsum(1) - 1
            self._call(first, use_cache=True, logits_to_keep=1)
            self.keep([0] * len(self._rows))
            self._lengthen(mask)
        else:
            self._read_mask = mask
            self._positions = (mask.cumsum(1) - 1).clamp(min=0)
        output = self._call(ids, use_cache=go_on or header > 0, logits_to_keep=1)
        logits: Tensor = output.logits[:, -1]
        return logits

    def step(self, ids: Tensor) -> Tensor:
        """Read one more token of each row, `[rows]`; return the logits `[rows, V]` that follow."""
        self._lengthen(self._read_mask.new_ones(len(ids), 1))
        output = self._call(ids[:, None], use_cache=True, logits_to_keep=1)
        logits: Tensor = output.logits[:, -1]
        return logits

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Read on: `[rows, new]` tokens after everything read so far.

        Arguments:
            ids: padded on the right.
            mask: `[rows, new]`, 1 where there is a token.

        Returns:
            The logits `[tokens, V]` of every token in `ids` that is no padding, row-major.
        """
        self._lengthen(mask)
        with head_reads(self._model.anatomy, mask.bool()):
            output = self._call(ids, use_cache=True)
        logits: Tensor = output.logits
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order; a row may be given several times."""
        import torch

        kept = torch.tensor(rows, device=self._device)
        self._cache.batch_select_indices(kept)
        self._read_mask, self._positions = self._read_mask[kept], self._positions[kept]

    @property
    def _device(self) -> Any:
        return next(self._model.model.parameters()).device

    def _lengthen(self, mask: Tensor) -> None:
        """Count `[rows, new]` further tokens; each follows the last token, not the padding."""
        import torch

        self._read_mask = torch.cat([self._read_mask, mask.to(self._read_mask.dtype)], dim=1)
        self._positions = self._positions[:, -1:] + mask.cumsum(1)

    def _header(self) -> int:
        """Return how many tokens to read once; each row keeps one at least for itself.

        A sliding window is counted over the cache, in which padding would stand after the header.
        """
        if not keeps_prefixes(self._model.model) or has_window(self._model.model):
            return 0
        shortest = min(self._rows, key=len)
        rows = [tuple(row) for row in self._rows]
        low, high = min(rows), max(rows)
        pairs = enumerate(zip(low, high, strict=False))
        common = next((place for place, (a, b) in pairs if a != b), min(len(low), len(high)))
        header = min(common, len(shortest) - 1)
        return header if header >= LEAST_HEADER and len(self._rows) > 1 else 0

    def _call(self, ids: Tensor, **settings: Any) -> Any:
        if self._counts_positions:
            settings["position_ids"] = self._positions
        settings[self._cache_name] = self._cache
        output = self._model.model(input_ids=ids, attention_mask=self._read_mask, **settings)
        self._cache = getattr(output, self._cache_name, None)
        return output


def keeps_prefixes(model: nn.Module) -> bool:
    """Whether a model's cache can be copied to several rows: keys and values, no running state."""
    return not getattr(model, "_is_stateful", False)


def has_window(model: nn.Module) -> bool:
    """Whether some block looks at the last tokens only."""
    config: Any = getattr(model, "config", None)
    kinds = getattr(config, "layer_types", None) or ()
    return getattr(config, "sliding_window", None) is not None or any(
        "sliding" in kind or "chunked" in kind for kind in kinds
    )


def left_padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: Any = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask `[rows, length]`, padded on the left."""
    import torch

    length = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids.to(device), mask.to(device)


def right_padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: Any = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask `[rows, length]`, padded on the right."""
    import torch

    length = max(map(len, rows))
    ids = torch.tensor([list(row) + [pad_id] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return ids.to(device), mask.to(device)
