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
    names = {"target": "TARGET", "source": "SOURCE", "sft": "SFT", "kd": "KD"}
    module = "pktkit_controls.strategies"
    return [Component(name, f"{module}:{attribute}") for name, attribute in names.items()]
