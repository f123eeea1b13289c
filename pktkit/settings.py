"""How readings are taken."""

from __future__ import annotations

import attrs


@attrs.frozen
class ProbeSettings:
    """Limits of a probe.

    Arguments:
        max_length: longest sequence in tokens, prompt and answer together.
        batch_size: rows per forward pass.
        max_bytes: largest stored reading; beyond it states are computed when asked for.
        row_limit: rows per split that may be used at most; None for all.
    """

    max_length: int = attrs.field(default=512, validator=attrs.validators.ge(2))
    batch_size: int = attrs.field(default=64, validator=attrs.validators.ge(1))
    max_bytes: int = attrs.field(default=1 << 30, validator=attrs.validators.ge(0))
    row_limit: int | None = None
