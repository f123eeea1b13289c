"""What a transfer may see and compute: equal terms for all arms of a comparison."""

from __future__ import annotations

import math

import attrs
from attrs import validators

SCHEDULES = ("constant", "linear", "cosine")
AUTOCAST = ("none", "bfloat16")
LABELS = ("gold", "source")

REFERENCE = "sft"
"""The arm that others' budgets are held against, where it runs."""

EQUAL = ("steps", "tokens", "flops")
"""What arms can be made to spend alike."""


@attrs.frozen
class Budget:
    """How much a transfer may see and compute; the same for all arms of a comparison.

    Arguments:
        rows: training rows drawn from the task's `train` split; 0 takes them all.
        steps: optimiser steps.
        batch_size: rows per step.
        learning_rate: peak learning rate of AdamW.
        schedule: shape after the warm-up, one of `SCHEDULES`.
        warmup: share of the steps with linearly rising learning rate.
        weight_decay: of AdamW.
        clip: largest gradient norm.
        accumulate: micro-batches a step is split into.
        autocast: `"bfloat16"` computes the target's forward pass in that precision, with weights
            and optimiser in their own; `"none"` does not.
        checkpointing: keep block inputs only and compute the rest again in the backward pass.
        labels: what the drawn rows are answered with: `"gold"`, or what the `"source"` itself
            answers (label-free transfer).
        unlabelled: further prompts of the `train` split, answered by the source.
    """

    rows: int = attrs.field(default=0, validator=validators.ge(0))
    steps: int = attrs.field(default=200, validator=validators.ge(1))
    batch_size: int = attrs.field(default=16, validator=validators.ge(1))
    learning_rate: float = attrs.field(default=1e-3, validator=validators.gt(0))
    schedule: str = attrs.field(default="cosine", validator=validators.in_(SCHEDULES))
    warmup: float = attrs.field(
        default=0.05, validator=validators.and_(validators.ge(0), validators.le(1))
    )
    weight_decay: float = attrs.field(default=0.0, validator=validators.ge(0))
    clip: float = attrs.field(default=1.0, validator=validators.gt(0))
    accumulate: int = attrs.field(default=1, validator=validators.ge(1))
    autocast: str = attrs.field(default="none", validator=validators.in_(AUTOCAST))
    checkpointing: bool = False
    labels: str = attrs.field(default="gold", validator=validators.in_(LABELS))
    unlabelled: int = attrs.field(default=0, validator=validators.ge(0))

    def rate(self, step: int) -> float:
        """Return the learning rate of a 0-based step."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        share = (step - rising) / max(1, self.steps - rising)
        if self.schedule == "linear":
            return self.learning_rate * (1 - share)
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        return self.learning_rate
