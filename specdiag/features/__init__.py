"""Covariance of a network's features, and how well conditioned it is."""
