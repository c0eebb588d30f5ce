"""Figures of any Dataset: one module a figure, and `drawings`, which draws them all."""
