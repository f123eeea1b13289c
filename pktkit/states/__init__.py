"""A source read once, on a machine that can hold it, and used by others without its weights."""

from pktkit.states.record import RECORD, StatesRecord, holds_states
from pktkit.states.source import WrittenSource, open_source

__all__ = ["RECORD", "StatesRecord", "WrittenSource", "holds_states", "open_source"]
