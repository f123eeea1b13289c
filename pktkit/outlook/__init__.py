"""What can be told before anything runs: of a pair, of strategies on it, and of what they cost."""
