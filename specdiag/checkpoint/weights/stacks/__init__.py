"""Tensors with three and more axes -> rows, columns, taps of a kernel, and stacked matrices."""
