"""Weights that wait outside the devices and are fetched when they are used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pktkit.errors import PairIncompatibleError


def waits(tensor: Tensor) -> bool:
    """Return whether a tensor has no values here."""
    return tensor.is_meta and type(tensor) in (torch.Tensor, nn.Parameter)


def held(model: nn.Module, name: str) -> Tensor:
    """Return a parameter with its values, fetched if they wait elsewhere.

    Raises:
        AttributeError: there is no such parameter.
    """
    parameter = model.get_parameter(name)
    if not waits(parameter):
        return parameter.detach()
    from transformers.integrations.accelerate import load_offloaded_parameter

    fetch: Any = load_offloaded_parameter
    fetched: Tensor = fetch(model, name)
    return fetched.detach()


def require_held(model: nn.Module, who: str) -> None:
    """Refuse a model some of whose weights wait outside the devices.

    Raises:
        PairIncompatibleError: they do; says how many.
    """
    parameters = list(model.parameters())
    away = sum(waits(parameter) for parameter in parameters)
    if away:
        raise PairIncompatibleError(
            f"{who} needs every weight of the source in memory, but {away} of its "
            f"{len(parameters)} parameters wait in host memory or on disk (--source-device "
            "spread). Use more or larger devices, --source-device cpu, or a strategy that only "
            "reads states."
        )
