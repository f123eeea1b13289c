"""What moves the parameters of a run."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.distributed.processes import ALONE, Processes
from pktkit.errors import NonFiniteError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pktkit.budget import Budget


@attrs.frozen(eq=False)
class Moving:
    """What moves in a run.

    Arguments:
        parameters: of the target.
        beside: others, which an objective brought.
        multiple: of the target's learning rate, for those beside it.
        phases: sets of the target's parameters that move together while the others rest.
    """

    parameters: Sequence[nn.Parameter]
    beside: Sequence[nn.Parameter] = ()
    multiple: float = 1.0
    phases: Sequence[Sequence[nn.Parameter]] = ()


class Engine(abc.ABC):
    """Backward passes and steps of a run."""

    def __init__(self, parameters: Sequence[nn.Parameter], budget: Budget) -> None:
        """Take the parameters.

        Arguments:
            parameters: of the target, that move.
            budget: learning rates, weight decay, clipping.
        """
        self._parameters, self._budget = list(parameters), budget

    def loss(self, compute: Callable[[], Tensor]) -> Tensor:
        """Run the model and return the loss that `compute` returns, a scalar."""
        return compute()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a loss's gradient to that of the step.

        Arguments:
            last: this is the last micro-batch of the step.
        """
        loss.backward()

    def let_move(self, active: Sequence[nn.Parameter] | None) -> None:
        """Let some of the target's parameters move, or all, until this is said anew.

        The others keep their bits: no gradient, no momentum and no weight decay reaches them.
        """
        moving = None if active is None else {id(parameter) for parameter in active}
        for parameter in self._parameters:
            parameter.requires_grad_(moving is None or id(parameter) in moving)

    @abc.abstractmethod
    def step(self, step: int, ids: Sequence[str]) -> None:
        """Take a step along the gradient, and forget the gradient.

        Arguments:
            step: its 0-based number in the budget, for its learning rate.
            ids: items that were read, for messages.

        Raises:
            NonFiniteError: the gradient is not finite.
        """


class AveragingEngine(Engine):
    """AdamW in every process, on gradients averaged over all of them.

    Gradients of the target's parameters and of those beside it are clipped apart, so that the
    latter do not change the former's.
    """

    def __init__(self, moving: Moving, budget: Budget, processes: Processes = ALONE) -> None:
        """Make the optimiser.

        Arguments:
            moving: the target's parameters or those beside it may be none, not both.
            budget: learning rates, weight decay, clipping.
            processes: over which gradients are averaged.
        """
        import torch

        super().__init__(moving.parameters, budget)
        self._beside, self._processes = list(moving.beside), processes
        groups = [
            {"params": group, "multiple": factor}
            for group, factor in ((self._parameters, 1.0), (self._beside, moving.multiple))
            if group
        ]
        self._optimiser = torch.optim.AdamW(
            groups, lr=budget.learning_rate, weight_decay=budget.weight_decay, fused=True
        )

    def step(self, step: int, ids: Sequence[str]) -> None:
        """Take a step along the mean gradient.

        Raises:
            NonFiniteError: the gradient is not finite.
        """
        set_rates(self._optimiser.param_groups, self._budget.rate(step))
        self._processes.average_gradients([*self._parameters, *self._beside])
        for parameters in (self._parameters, self._beside):
            _clip(parameters, self._budget.clip, step, ids)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)


def set_rates(groups: Sequence[dict[str, float]], rate: float) -> None:
    """Set the learning rate of an optimiser's groups to their `multiple` of it."""
    for group in groups:
        group["lr"] = rate * group["multiple"]


def require_finite(value: Tensor, what: str, step: int, ids: Sequence[str]) -> None:
    """Refuse a loss or a gradient norm that is not finite.

    Raises:
        NonFiniteError: it is not; names step and items.
    """
    if not bool(value.detach().isfinite()):
        listed = ", ".join(ids[:4]) + (" …" if len(ids) > 4 else "")
        raise NonFiniteError(
            f"the {what} is {float(value.detach()):g} at step {step + 1}, batch of items {listed}. "
            "Lower the learning rate, or try --dtype float32."
        )


def _clip(
    parameters: Sequence[nn.Parameter], largest: float, step: int, ids: Sequence[str]
) -> None:
    import torch

    from pktkit.distributed.exchange import whole

    norm = torch.nn.utils.clip_grad_norm_(parameters, largest)
    require_finite(whole(norm), "gradient", step, ids)
