"""What a model says and how likely it finds what is said: batched, without gradients."""
