"""Spectra of Gaussian matrices, drawn: what the law of `law` was fitted to, and small shapes."""

import functools
import math

import numpy as np
from numpy.typing import NDArray

from specdiag.htsr.tail.change_points import MIN_SPACINGS
from specdiag.htsr.tail.posterior import posterior_mean

Array = NDArray[np.float64]

DRAWS = 1000  # of a shape below the sizes of the law


def gaussian_spectrum(rng: "np.random.Generator", N: int, M: int, slices: int = 1) -> Array:
    """Return the eigenvalues, descending, of W'W / N for a Gaussian W of shape (N, M), N >= M.

    They have the distribution of those of a tridiagonal matrix of M + M - 1 chi-square numbers.
    This is exact, and takes M^2 operations instead of N M^2. Dumitriu & Edelman (2002), J. Math.
    Phys. 43, theorem 3.4 with beta = 1. The eigenvalues of the slices of a kernel are pooled.
    """
    values = np.concatenate([_tridiagonal(rng, N, M) for _ in range(slices)])
    values[::-1].sort()
    return np.maximum(values, values[0] * N * np.finfo(np.float64).eps) / N


def _tridiagonal(rng: "np.random.Generator", N: int, M: int) -> Array:
    from scipy.linalg.lapack import dsterf

    diagonal = rng.chisquare(np.arange(N, N - M, -1))
    below = rng.chisquare(np.arange(M - 1, 0, -1))
    off = np.sqrt(diagonal[:-1] * below)
    diagonal[1:] += below
    if M == 1:
        return diagonal
    values, failure = dsterf(diagonal, off)
    if failure:
        raise np.linalg.LinAlgError("the eigenvalues of a random matrix did not converge")
    return values


@functools.lru_cache(maxsize=64)
def small_shape(N: int, M: int, slices: int) -> Array:
    """Return the sorted alphas of 1,000 Gaussian matrices of a shape too small for the law.

    The seed depends on the shape alone. It takes less than a second. Empty if the matrices have too
    few eigenvalues for a posterior.
    """
    if M * slices <= MIN_SPACINGS + 1:
        return np.empty(0)
    rng = np.random.default_rng([N, M, slices])
    return np.sort([posterior_mean(gaussian_spectrum(rng, N, M, slices)) for _ in range(DRAWS)])


def rank_p(alpha: float, drawn: Array) -> float:
    """Return (1 + #{drawn <= alpha}) / (1 + n): Davison & Hinkley (1997), section 4.2.

    It cannot be below 1 / (1 + n). NaN if alpha is, or without draws.
    """
    if math.isnan(alpha) or not len(drawn):
        return math.nan
    return float((1 + np.count_nonzero(drawn <= alpha)) / (1 + len(drawn)))
