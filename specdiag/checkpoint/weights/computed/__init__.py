"""Tensors that a module computes its weight from -> the weight."""
