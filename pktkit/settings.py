"""How readings are taken, and how results are tested."""

from __future__ import annotations

import attrs

from pktkit.converters import as_tuple

DEFAULT_ALPHA = 0.05
DEFAULT_DRAWS = 4000
STATE_DTYPES = ("model", "bfloat16")
CACHE_BYTES = 20_000_000_000
"""What readings kept on disk may take, unless it is said otherwise."""


@attrs.frozen
class ProbeSettings:
    """Limits of a probe.

    Arguments:
        max_length: longest sequence in tokens, prompt and answer together.
        batch_size: rows per forward pass.
        max_bytes: largest stored reading; beyond it states are computed when asked for.
        row_limit: rows per split that may be used at most; None for all.
        state_dtype: precision that states are kept in, `"bfloat16"` for half the space of
            float32; `"model"` keeps them as the model computes them. Logits stay as they are.
        shard_bytes: size of one file of a stored reading, and what taking it holds in memory.
        cache_bytes: what all readings on disk may take together; the least recently used leave
            first, and larger ones are computed when asked for. None for no limit.
    """

    max_length: int = attrs.field(default=512, validator=attrs.validators.ge(2))
    batch_size: int = attrs.field(default=64, validator=attrs.validators.ge(1))
    max_bytes: int = attrs.field(default=1 << 30, validator=attrs.validators.ge(0))
    row_limit: int | None = None
    state_dtype: str = attrs.field(default="model", validator=attrs.validators.in_(STATE_DTYPES))
    shard_bytes: int = attrs.field(default=1 << 28, validator=attrs.validators.ge(1))
    cache_bytes: int | None = CACHE_BYTES


@attrs.frozen
class EvidenceSettings:
    """How differences are tested.

    Arguments:
        alpha: error rate of claims, and 1 minus the level of intervals.
        n_boot: bootstrap draws per difference.
        references: names of the rows that strategies are compared with; the first is the one Δ is
            shown against. None named: the untouched target, and every other row that is not under
            comparison.
    """

    alpha: float = attrs.field(
        default=DEFAULT_ALPHA, validator=[attrs.validators.gt(0.0), attrs.validators.lt(1.0)]
    )
    n_boot: int = attrs.field(default=DEFAULT_DRAWS, validator=attrs.validators.ge(1))
    references: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
