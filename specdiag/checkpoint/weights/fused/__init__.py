"""Fused matrices -> the blocks that they consist of."""
