"""Public helpers for plugin authors' tests, also used by pktkit's own."""

from pktkit.testing.models import (
    FAMILIES,
    tiny_loaded,
    tiny_model,
    tiny_tokenizer,
)

__all__ = ["FAMILIES", "tiny_loaded", "tiny_model", "tiny_tokenizer"]
