"""Controls: the untouched models, fine-tuning and output distillation."""

from __future__ import annotations

from pktkit.components import Component
from pktkit.hookspecs import hookimpl


@hookimpl
def pktkit_knowledge_injectors() -> list[Component]:
    """Register plain fine-tuning."""
    return [
        Component(
            "fine-tune",
            "pktkit_controls.injectors:FineTuneInjector",
            "fine-tuning on gold answers, on the source's predictions, or on both",
        )
    ]


@hookimpl
def pktkit_strategies() -> list[Component]:
    """Register the controls."""
    return [
        _strategy("target", "TARGET", "the untouched target"),
        _strategy("source", "SOURCE", "the source itself: the ceiling"),
        _strategy("sft", "SFT", "fine-tuning on the same rows and steps, no source"),
        _strategy("kd", "KD", "fine-tuning plus KL to the source's outputs"),
        _strategy("seqkd", "SEQKD", "fine-tuning on what the source answers, no gold labels"),
    ]


def _strategy(name: str, attribute: str, summary: str) -> Component:
    return Component(name, f"pktkit_controls.strategies:{attribute}", summary)
