"""Change of basis: source blocks rewritten in the target's coordinates, without training."""
