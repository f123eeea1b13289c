"""LaTen: neuron-level parameter transfer through a hypernetwork (arXiv 2505.14436)."""
