"""Eigenvalues of one matrix -> the power law of their tail, its posterior, and its fit."""
