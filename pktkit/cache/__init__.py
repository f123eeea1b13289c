"""Readings of models on disk: addressed by content, bounded in size, shared by processes."""

from pktkit.cache.address import Address
from pktkit.cache.readings import ReadingCache

__all__ = ["Address", "ReadingCache"]
