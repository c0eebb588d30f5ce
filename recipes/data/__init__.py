"""Recordings as arrays, windows and batches."""
