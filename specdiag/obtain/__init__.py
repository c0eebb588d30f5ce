"""Fetch or train the checkpoints of a lock."""
