"""Block states of one model or of both at the same tokens, and what is computed from them."""
