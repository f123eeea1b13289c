"""Choosing a strategy's settings on the dev split, and saying what the choice is worth.

`space` is what is searched, `sampling` proposes configurations, `run` runs them as cells of a
comparison on dev, `directory` keeps what has run, `outcome` corrects the winner's gain for having
been chosen, `report` writes it down.
"""
