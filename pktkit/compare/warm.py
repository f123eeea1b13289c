"""Imported once in the process that workers are forked from, so that each starts in no time.

Only imports: nothing may compute here, because thread pools do not survive a fork.
"""

# ruff: noqa: E402, F401
import gc

gc.disable()  # while nothing but imports happens, collecting costs a fifth of the time

import peft
import torch
from transformers.models.llama import modeling_llama

import pktkit.compare.cells
import pktkit.pair
import pktkit.probe

# What was imported stays. The collection before every cell need not look at it (0.2 s each time),
# and its memory stays shared between workers.
gc.freeze()
gc.enable()
