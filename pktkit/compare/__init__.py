"""Strategies × seeds × tasks on equal terms."""
