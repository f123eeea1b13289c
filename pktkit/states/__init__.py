"""A source read once, on a machine that can hold it, and used by others without its weights."""

from pktkit.states.record import RECORD, StatesRecord, holds_states

__all__ = ["RECORD", "StatesRecord", "holds_states"]
