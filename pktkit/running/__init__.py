"""One component at work: traced, checked, and its faults kept its own."""
