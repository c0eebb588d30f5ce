"""Packed or rounded values and their scales -> the weights that they stand for."""
