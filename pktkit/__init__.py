"""Move what a source language model knows into a target model, and measure what it brought.

Importing `pktkit` loads nothing heavy; import the module that holds the concept you need.
"""

__version__ = "0.1.0"
