"""Pictures of what the activation-based method works with."""
