"""Weight matrices with a heavy tail that no scale of rows or columns explains, and with none."""

import numpy as np


def heavy(rng, shape, alpha=2.0):
    """Return a matrix with random singular vectors and eigenvalues from a power law."""
    U, _, Vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return U * np.sqrt(1 + rng.pareto(alpha - 1, min(shape))) @ Vt


def light(rng, shape):
    """Return a matrix with a lighter tail than Gaussian ones: it never passes for heavier."""
    U, _, Vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return U * np.sqrt(rng.uniform(0.5, 1.5, min(shape))) @ Vt
