"""Transactional injection: every change to the target is recorded and can be undone exactly."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pktkit.errors import JournalError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pktkit.pair import LoadedModel


def _bits(tensor: Tensor) -> Tensor:
    """View a tensor as integers so that NaN and signed zero compare by their bits."""
    import torch

    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().contiguous().view(integer[tensor.element_size()])


def fingerprint(tensor: Tensor) -> int:
    """Return a position-weighted checksum of a tensor's bits, modulo 2**64.

    One pass over the bytes in chunks of bounded memory. Any change of a single element changes
    the checksum, because the position weights are odd and hence invertible modulo 2**64. The
    weights are scrambled: with consecutive ones, the same change of the bits of every element
    (halving a whole matrix) would cancel for large matrices. A tensor without values here, whose
    values wait elsewhere and are only read, gives 0.
    """
    import torch

    from pktkit.offloaded import waits

    if waits(tensor):
        return 0
    total = 0
    flat = _bits(tensor).flatten()
    chunk = 1 << 20
    for start in range(0, flat.numel(), chunk):
        part = flat[start : start + chunk].to(torch.int64)
        total += int((part * _odd_weights(start, part)).sum())
    return total & 0xFFFFFFFFFFFFFFFF


def _odd_weights(start: int, part: Tensor) -> Tensor:
    """Return odd int64 weights that depend on the position alone, without a visible pattern."""
    import torch

    index = torch.arange(start + 1, start + 1 + part.numel(), device=part.device)
    index *= -7046029254386353131  # 2**64 / golden ratio, as in splitmix64
    index ^= index >> 31
    index *= -4658895280553007687
    index ^= index >> 29
    return index.bitwise_or_(1)


def _identities(parameters: Mapping[str, nn.Parameter]) -> dict[str, int]:
    """Return which object each parameter is; those that are fetched for each use are anyone."""
    from pktkit.offloaded import waits

    return {name: 0 if waits(p) else id(p) for name, p in parameters.items()}


class Journal:
    """Records the first value of every parameter an injector touches.

    Use as a context manager: an exception inside rolls the target back bit for bit; leaving it
    normally verifies that nothing but journalled parameters has changed.
    """

    def __init__(self, target: LoadedModel) -> None:
        self._model: nn.Module = target.model
        self._parameters: dict[str, nn.Parameter] = dict(target.model.named_parameters())
        self._before: dict[str, Tensor] = {}
        self._requires_grad = {n: p.requires_grad for n, p in self._parameters.items()}
        self._prints = {n: fingerprint(t) for n, t in self._present().items()}

    @property
    def digest(self) -> str:
        """Checksum of all parameters and buffers as they were when the journal began."""
        text = repr(sorted(self._prints.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def touched(self) -> tuple[str, ...]:
        """Names of journalled parameters, in the order they were first touched."""
        return tuple(self._before)

    def parameter(self, name: str) -> nn.Parameter:
        """Return a parameter of the target.

        Raises:
            JournalError: the target has no such parameter.
        """
        if name not in self._parameters:
            raise JournalError(
                f"the target has no parameter '{name}'.{did_you_mean(name, self._parameters)}"
            )
        return self._parameters[name]

    def touch(self, names: Iterable[str]) -> list[nn.Parameter]:
        """Record the present values of parameters that are about to change in place."""
        parameters = []
        for name in names:
            parameter = self.parameter(name)
            if name not in self._before:
                self._before[name] = parameter.detach().clone()
            parameters.append(parameter)
        return parameters

    def write(self, name: str, value: Tensor) -> None:
        """Replace a parameter's values; arithmetic belongs before the cast done here.

        Raises:
            JournalError: unknown parameter, another shape, or values that are not finite.
        """
        import torch

        parameter = self.parameter(name)
        if value.shape != parameter.shape:
            raise JournalError(
                f"parameter '{name}' has shape {tuple(parameter.shape)}, "
                f"the new value {tuple(value.shape)}."
            )
        cast = value.detach().to(parameter.dtype)
        if not bool(torch.isfinite(cast).all()):
            raise JournalError(
                f"the new value of parameter '{name}' is not finite in {parameter.dtype}."
            )
        self.touch([name])
        with torch.no_grad():
            parameter.copy_(cast)

    @contextlib.contextmanager
    def training(self, names: Iterable[str]) -> Iterator[list[nn.Parameter]]:
        """Make exactly these parameters trainable inside the context, with their values recorded.

        On leaving, flags are as they were on entering and gradients are gone.

        Raises:
            JournalError: the target has no such parameter.
        """
        parameters = self.touch(names)
        chosen = {id(parameter) for parameter in parameters}
        before = {name: p.requires_grad for name, p in self._parameters.items()}
        try:
            for parameter in self._parameters.values():
                parameter.requires_grad_(id(parameter) in chosen)
            yield parameters
        finally:
            self._restore_flags(before)

    def rollback(self) -> None:
        """Restore every touched parameter bit for bit and forget the record."""
        import torch

        with torch.no_grad():
            for name, value in self._before.items():
                self._parameters[name].copy_(value)
        self._restore_flags(self._requires_grad)
        self._before.clear()

    def changed(self) -> tuple[str, ...]:
        """Return touched parameters whose bits differ from their first values."""
        return tuple(
            name
            for name, value in self._before.items()
            if not bool((_bits(self._parameters[name]) == _bits(value)).all())
        )

    @contextlib.contextmanager
    def undone(self) -> Iterator[Mapping[str, Tensor]]:
        """Put the target back as it was, for as long as the context lasts.

        Gives the values that changed parameters have now, on the CPU. The target may be written
        inside; on leaving, parameters have the bits they had on entering.
        """
        import torch

        names = self.changed()
        after = {name: self._parameters[name].detach().to("cpu", copy=True) for name in names}
        try:
            with torch.no_grad():
                for name in names:
                    self._parameters[name].copy_(self._before[name])
            yield after
        finally:
            with torch.no_grad():
                for name, value in after.items():
                    self._parameters[name].copy_(value)

    def before(self, name: str) -> Tensor:
        """Return the first value of a touched parameter."""
        return self._before[name]

    def delta(self) -> Mapping[str, Tensor]:
        """Return, in fp32, what was added to each changed parameter."""
        return {
            name: self._parameters[name].detach().float() - self._before[name].float()
            for name in self.changed()
        }

    def verify(self) -> None:
        """Check that nothing outside the record has changed and no module was swapped.

        Raises:
            JournalError: a parameter or buffer changed behind the journal's back.
        """
        now: dict[str, Any] = dict(self._model.named_parameters())
        if _identities(now) != _identities(self._parameters):
            raise JournalError("the target's parameters were replaced, not written to.")
        present = self._present()
        if present.keys() != self._prints.keys():
            changed = ", ".join(sorted(present.keys() ^ self._prints.keys()))
            raise JournalError(f"the target's buffers were added or removed: {changed}.")
        for name, tensor in present.items():
            if name not in self._before and fingerprint(tensor) != self._prints[name]:
                raise JournalError(f"'{name}' was changed behind the journal's back.")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.rollback()
            return
        self._restore_flags(self._requires_grad)
        try:
            self.verify()
        except JournalError:
            self.rollback()
            raise

    def _present(self) -> dict[str, Tensor]:
        """Return parameters and buffers as the model holds them now."""
        return dict(self._model.named_parameters()) | dict(self._model.named_buffers())

    def _restore_flags(self, flags: Mapping[str, bool]) -> None:
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(flags[name])
            parameter.grad = None
