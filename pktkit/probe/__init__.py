"""One pass over the data, many readings: states, logits, attributions, sensitivities."""

from pktkit.cache import ReadingCache
from pktkit.probe.probe import Probe
from pktkit.probe.readers import LogitReader, StateReader
from pktkit.settings import ProbeSettings

__all__ = ["LogitReader", "Probe", "ProbeSettings", "ReadingCache", "StateReader"]
