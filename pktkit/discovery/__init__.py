"""Which plugins there are, what is wrong with them, and how a new one begins."""
