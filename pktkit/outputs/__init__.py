"""What a transfer leaves behind: a checkpoint, a PEFT adapter or a delta, each with its card."""

from pktkit.outputs.delta import apply_delta
from pktkit.outputs.saving import KINDS, Saving, restore, save, sentence

__all__ = ["KINDS", "Saving", "apply_delta", "restore", "save", "sentence"]
