"""Parameters that have a shape but no values, and say so when a value is asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pktkit.errors import UsageError

_READABLE = {
    "dtype",
    "grad",
    "is_cpu",
    "is_cuda",
    "is_leaf",
    "is_meta",
    "layout",
    "ndim",
    "requires_grad",
    "shape",
}
"""Attributes that need no values."""

_CALLABLE = {
    "__hash__",
    "data_ptr",
    "dim",
    "element_size",
    "is_complex",
    "is_contiguous",
    "is_floating_point",
    "nelement",
    "numel",
    "requires_grad_",
    "size",
    "stride",
}
"""Methods that need no values."""


class AbsentParameter(nn.Parameter):
    """A parameter whose values are elsewhere; whatever needs them raises `UsageError`."""

    reason: str
    place: torch.device

    def __new__(cls, like: torch.Tensor, reason: str, place: torch.device) -> AbsentParameter:
        """Take shape and dtype of a tensor, and say that it is at `place`.

        Arguments:
            like: has the shape and dtype.
            reason: said when a value is needed.
            place: where inputs for it belong.
        """
        absent: AbsentParameter = torch.Tensor._make_subclass(
            cls, torch.empty_like(like, device="meta"), False
        )
        absent.reason, absent.place = reason, place
        return absent

    def __repr__(self, **ignored: Any) -> str:  # type: ignore[override]
        """Say what it is, without values."""
        return f"AbsentParameter(shape={tuple(self.shape)}, dtype={self.dtype})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let through what needs no values, refuse the rest.

        Raises:
            UsageError: a value is needed.
        """
        name = getattr(func, "__name__", "")
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        if name == "__get__" and attribute == "device":
            return args[0].place
        harmless = attribute in _READABLE if name in ("__get__", "__set__") else name in _CALLABLE
        if harmless:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        raise UsageError(_reason((*args, *(kwargs or {}).values())))


def _reason(values: tuple[Any, ...]) -> str:
    """Return the reason of the first absent parameter among arguments, however nested."""
    for value in values:
        if isinstance(value, AbsentParameter):
            return value.reason
        if isinstance(value, (list, tuple)) and (found := _reason(tuple(value))):
            return found
    return ""
