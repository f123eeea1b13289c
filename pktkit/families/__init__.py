"""Where blocks, heads, norms and the LM head live, one entry per architecture family.

Everything outside this package speaks of canonical projections (`q k v o gate up down`, always
`[out, in]`) and never of module paths, fused matrices or transposed layouts.
"""

from pktkit.families.anatomy import Anatomy
from pktkit.families.projection import Projection
from pktkit.families.table import (
    ATTENTION,
    FAMILIES,
    FEED_FORWARD,
    PROJECTIONS,
    Family,
    Fusion,
    family_of,
    supported_model_types,
)

__all__ = [
    "ATTENTION",
    "FAMILIES",
    "FEED_FORWARD",
    "PROJECTIONS",
    "Anatomy",
    "Family",
    "Fusion",
    "Projection",
    "family_of",
    "supported_model_types",
]
