"""Recordings -> arrays -> windows -> batches."""
