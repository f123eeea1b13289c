"""The hypernetwork and its training schedule (arXiv 2505.14436, aligning stage; public code)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pktkit.training.loop import seeded

BETAS = (0.9, 0.95)
"""Of AdamW; the schedule then cycles the first between 0.95 and 0.85."""

RISING, DIVISION, FINAL_DIVISION = 0.1, 25.0, 1.0
"""Share of rising steps; initial rate is the peak over 25, and so is the final one."""


class NeuronMap(nn.Sequential):
    """`Linear(D_src → D_src) → ReLU → Linear(D_src → D_tgt)` without biases, fp32."""

    def __init__(self, source_width: int, target_width: int) -> None:
        super().__init__(
            nn.Linear(source_width, source_width, bias=False),
            nn.ReLU(),
            nn.Linear(source_width, target_width, bias=False),
        )


def build(
    modules: Sequence[str],
    source_width: int,
    target_width: int,
    *,
    std: float,
    seed: int,
    device: torch.device | str = "cpu",
) -> nn.ModuleDict:
    """Build one map per projection kind, shared by all blocks and neurons.

    Arguments:
        modules: canonical projection names.
        source_width, target_width: D_src, D_tgt.
        std: of the Gaussian that both matrices are drawn from.
        seed: of the draw; the global random state is left alone.
        device: where the maps live; the draw is the same on all devices.
    """
    with seeded(seed):
        maps = nn.ModuleDict({name: NeuronMap(source_width, target_width) for name in modules})
        for parameter in maps.parameters():
            nn.init.normal_(parameter, std=std)
    return maps.to(device)


def deltas(maps: nn.ModuleDict, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Map the source's neurons, by projection `[n, D_src]` → `[n, D_tgt]`."""
    return {name: maps[name](vectors) for name, vectors in inputs.items()}


def schedule(
    maps: nn.ModuleDict, *, learning_rate: float, weight_decay: float, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.OneCycleLR]:
    """Return AdamW under a one-cycle cosine schedule, as the public code sets them up.

    Over 20 steps the rate is `peak / 25` at step 0, `peak` at step 1 and `peak / 25` again at step
    19, while β₁ goes 0.95 → 0.85 → 0.95.

    Arguments:
        maps: what is trained.
        learning_rate: the peak.
        weight_decay: of AdamW.
        steps: length of the whole schedule.
    """
    optimiser = torch.optim.AdamW(
        maps.parameters(), lr=learning_rate, betas=BETAS, weight_decay=weight_decay
    )
    # At exactly ten steps the rising phase ends at step 0 and torch divides by its length.
    rising = RISING if RISING * steps != 1.0 else RISING * (1 + 1e-6)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=learning_rate,
        total_steps=steps,
        pct_start=rising,
        anneal_strategy="cos",
        div_factor=DIVISION,
        final_div_factor=FINAL_DIVISION,
    )
    return optimiser, scheduler
