"""`lm-eval`: any task of lm-evaluation-harness, one score per item, through its Python API.

The harness builds the prompts, runs the model that is in memory, and scores (`evaluator.py`); what
it logs for every item becomes the item's score. Its own training rows, where a task has some, or a
file of the user's, are what a transfer learns from (`task.py`).
"""
