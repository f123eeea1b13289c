"""Rows that stand beside every comparison."""

from __future__ import annotations

from pktkit.components import Choice, Strategy

TARGET = Strategy(
    name="target",
    role="target",
    summary="the untouched target",
)

SOURCE = Strategy(
    name="source",
    role="source",
    summary="the source itself: the ceiling",
)

SFT = Strategy(
    name="sft",
    injector=Choice("fine-tune", {"output": "cross-entropy"}),
    role="baseline",
    summary="supervised fine-tuning on the same rows for the same steps, no source",
)

KD = Strategy(
    name="kd",
    injector=Choice("fine-tune", {"output": "both"}),
    role="baseline",
    summary="fine-tuning plus KL to the source's output distribution",
)

SEQKD = Strategy(
    name="seqkd",
    injector=Choice("fine-tune", {"output": "cross-entropy"}),
    role="baseline",
    budget={"labels": "source"},
    summary="sequence-level distillation: fine-tuning on the source's answers, no gold labels",
    reference="arXiv 1606.07947",
)
