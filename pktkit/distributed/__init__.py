"""Processes of one launch that train one target together."""
