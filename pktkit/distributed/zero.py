"""Training a target with DeepSpeed's ZeRO: optimiser, gradients and weights spread over processes.

A copy of the target trains (see `pktkit.distributed.copies`). DeepSpeed reduces and clips its
gradients and keeps its optimiser; what it optimises with, and which parameters rest meanwhile, is
as in one process.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import deepspeed
import torch
from torch import Tensor, nn

from pktkit.distributed.copies import Copied, copied
from pktkit.distributed.engine import AveragingEngine, Engine, Moving, require_finite, set_rates

if TYPE_CHECKING:
    from pktkit.budget import Budget
    from pktkit.distributed.layout import Layout
    from pktkit.distributed.processes import Processes, Zero
    from pktkit.pair import LoadedModel

_PRECISION: dict[torch.dtype, dict[str, Any]] = {
    torch.bfloat16: {"bf16": {"enabled": True}},
    torch.float16: {"fp16": {"enabled": True, "loss_scale": 1}},
}
"""DeepSpeed keeps fp32 weights beside these. Losses are not scaled, as in one process."""


class RestingAdamW(torch.optim.AdamW):
    """AdamW that passes over groups marked `resting`: neither momentum nor decay moves them."""

    def step(self, closure: Any = None) -> Any:
        """Take a step with the other groups."""
        for group in self.param_groups:
            if group["resting"]:
                for parameter in group["params"]:
                    parameter.grad = None
        return super().step(closure)


class _Computed(nn.Module):
    """Has a loss computed inside of DeepSpeed's forward pass, so that its output is the loss.

    DeepSpeed watches the output for the backward pass to begin; logits would not do, since a loss
    may be of the states of blocks alone.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        return compute()


class ZeroEngine(Engine):
    """Backward passes and steps by DeepSpeed."""

    def __init__(
        self, model: nn.Module, zero: Zero, moving: Moving, budget: Budget, processes: Processes
    ) -> None:
        """Hand a model to DeepSpeed.

        Arguments:
            model: whose parameters move.
            zero: the launch's configuration.
            moving: parameters beside the target stay whole, with an engine of their own.
            budget: learning rates, weight decay, clipping.
            processes: that train together.
        """
        super().__init__(moving.parameters, budget)
        for parameter in moving.parameters:
            parameter.requires_grad_(True)  # DeepSpeed looks once, here
        alike = _moving_alike(moving)
        groups = [{"params": group, "multiple": 1.0, "resting": False} for group in alike]
        self._optimiser = RestingAdamW(
            groups, lr=budget.learning_rate, weight_decay=budget.weight_decay, fused=True
        )
        self._members = [{id(parameter) for parameter in group} for group in alike]
        beside = attrs.evolve(moving, parameters=())
        self._beside = AveragingEngine(beside, budget, processes) if moving.beside else None
        _quieten()
        self._deepspeed, *_ = deepspeed.initialize(
            model=_Computed(model),
            optimizer=self._optimiser,
            config=_configuration(zero, budget, moving.parameters[0].dtype),
            dist_init_required=False,
        )

    def loss(self, compute: Callable[[], Tensor]) -> Tensor:
        """Run the model inside of DeepSpeed's forward pass."""
        loss: Tensor = self._deepspeed(compute)
        return loss

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a loss's gradient; that of the whole step is reduced with the last."""
        self._deepspeed.set_gradient_accumulation_boundary(last)
        self._deepspeed.backward(loss, scale_wrt_gas=False)

    def let_move(self, active: Sequence[nn.Parameter] | None) -> None:
        """Let some parameters move, or all; the groups of the others rest."""
        super().let_move(active)
        moving = {id(p) for p in (self._parameters if active is None else active)}
        for group, members in zip(self._optimiser.param_groups, self._members, strict=True):
            group["resting"] = not members & moving

    def step(self, step: int, ids: Sequence[str]) -> None:
        """Take a step, which DeepSpeed does not where the gradient is not finite.

        Raises:
            NonFiniteError: the gradient is not finite.
        """
        set_rates(self._optimiser.param_groups, self._budget.rate(step))
        self._deepspeed.step()
        norm = self._deepspeed.get_global_grad_norm()
        if not self._deepspeed.was_step_applied():
            norm = torch.inf
        require_finite(torch.as_tensor(norm), "gradient", step, ids)
        if self._beside is not None:
            self._beside.step(step, ids)

    def close(self) -> None:
        """Let go of what DeepSpeed holds."""
        self._deepspeed.destroy()


@attrs.frozen(eq=False)
class Partitioned(Copied):
    """A copy of a target in DeepSpeed's hands.

    Arguments:
        zero: the launch's configuration.
        engines: receives those that are made.
    """

    zero: Zero
    engines: list[ZeroEngine]

    def engine(self, moving: Moving, budget: Budget, processes: Processes) -> Engine:
        """Hand the copy to DeepSpeed."""
        made = ZeroEngine(self.called, self.zero, moving, budget, processes)
        self.engines.append(made)
        return made


@contextlib.contextmanager
def partitioned(
    target: LoadedModel, called: Any, parameters: Sequence[nn.Parameter], zero: Zero
) -> Iterator[Layout]:
    """Give a copy of a target that DeepSpeed spreads when its engine is asked for.

    Arguments:
        called: the target's model, or a wrapper around it.
        parameters: what will train; written to unless the body raises.
    """
    engines: list[ZeroEngine] = []
    make = functools.partial(Partitioned, whole=_gathered, zero=zero, engines=engines)
    try:
        with copied(target, called, parameters, make) as layout:
            yield layout
    finally:
        for engine in engines:
            engine.close()


def _quieten() -> None:
    """Let DeepSpeed log errors only, and on the CPU not compile an exchange of its own.

    That takes a minute and is for inference; torch's exchange does.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    compatible = getattr(deepspeed.ops, "__compatible_ops__", {})
    compatible["deepspeed_shm_comm"] = False


def _gathered(parameter: nn.Parameter) -> Tensor:
    """Return a parameter in full, where stage 3 may have spread it."""
    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def _moving_alike(moving: Moving) -> list[list[nn.Parameter]]:
    """Group parameters that move in the same phases."""
    sets = {frozenset(id(parameter) for parameter in phase) for phase in moving.phases}
    groups: dict[tuple[bool, ...], list[nn.Parameter]] = defaultdict(list)
    for parameter in moving.parameters:
        groups[tuple(id(parameter) in members for members in sets)].append(parameter)
    return list(groups.values())


def _configuration(zero: Zero, budget: Budget, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # required, and of no consequence here
        "zero_optimization": dict(zero.section),
        "gradient_clipping": budget.clip,
        "communication_data_type": "fp32",
        "steps_per_print": torch.inf,
        # AdamW of torch, as in one process, wherever the optimiser's state lies
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **_PRECISION.get(dtype, {}),
    }
