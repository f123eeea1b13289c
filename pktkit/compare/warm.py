"""Imported once in the process that workers are forked from, so that each starts in no time.

Only imports: nothing may compute here, because thread pools do not survive a fork.
"""

import gc

import peft  # noqa: F401
import torch  # noqa: F401
from transformers.models.llama import modeling_llama  # noqa: F401

import pktkit.compare.cells
import pktkit.pair
import pktkit.probe  # noqa: F401

# What was imported stays. The collection before every cell need not look at it (0.2 s each time),
# and its memory stays shared between workers.
gc.freeze()
