"""A training run -> a table, JSON, and a page."""
