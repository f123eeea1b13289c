"""A second device for tests on machines that have one: tensors that are computed on the CPU, say
they live elsewhere, and refuse to meet tensors that do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

PLACE = torch.device("meta")
"""How the second device is called: torch computes nothing there by itself."""

MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
"""Operations that may read one device and write another."""


class Elsewhere(torch.Tensor):
    """A tensor on the second device; `held` are its values on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=PLACE,
        )
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Elsewhere({self.held!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Makes new tensors of the second device, which no argument announces."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class _Lists(TorchFunctionMode):
    """Takes values from and to Python lists, which does not go through the dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func is torch.Tensor.tolist:
            return func(_held(args[0]))
        if func is not torch.tensor or device is None or torch.device(device) != PLACE:
            return func(*args, **kwargs)
        return Elsewhere(func(*args, **kwargs | {"device": "cpu"}))


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the values held, and put what comes of it where it belongs."""
    flat, _ = tree_flatten((args, kwargs))
    tensors = [value for value in flat if isinstance(value, torch.Tensor)]
    there = [isinstance(value, Elsewhere) for value in tensors]
    asked = kwargs.get("device")
    wanted = any(there) if asked is None else torch.device(asked) == PLACE
    indexing = func.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put_)
    if any(there) and not all(there) and func not in MOVES and not indexing:
        strangers = [value for value, far in zip(tensors, there, strict=True) if not far]
        if any(value.dim() for value in strangers):  # numbers may come from the CPU
            raise RuntimeError(f"{func}: tensors of two devices meet")
    if func is torch.ops.aten.copy_.default:
        into, values = args[0], args[1]
        _held(into).copy_(_held(values))
        return into
    plain_args, plain_kwargs = tree_map(_held, (args, kwargs))
    if asked is not None:
        plain_kwargs["device"] = torch.device("cpu")
    done = func(*plain_args, **plain_kwargs)
    returned = {id(_held(value)): value for value in tensors}
    leaves, shape = tree_flatten(done)
    return tree_unflatten([_placed(leaf, wanted, returned) for leaf in leaves], shape)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value


def _placed(value: Any, wanted: bool, returned: dict[int, torch.Tensor]) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if id(value) in returned:  # an operation in place gives back what it was given
        return returned[id(value)]
    return Elsewhere(value) if wanted else value


def moved(model: torch.nn.Module) -> None:
    """Put a model on the second device; tied parameters stay tied."""
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                there = Elsewhere(parameter.detach())
                fresh = torch.nn.Parameter(there, requires_grad=parameter.requires_grad)
                module._parameters[name] = made.setdefault(id(parameter), fresh)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = Elsewhere(buffer)


@contextmanager
def second_device() -> Iterator[None]:
    """Let tensors be made on the second device inside the context."""
    with _Lists(), _Factories():
        yield
