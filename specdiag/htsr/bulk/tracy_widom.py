"""Eigenvalues -> spikes: those larger than any of a random matrix with the same bulk would be.

Plain arrays in and out.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LEVEL = 0.05  # probability that a Gaussian matrix has a spike

# log(-log(1 - F)) of the Tracy-Widom law F of real matrices (beta = 1) between these ends, as a
# Chebyshev series. F is the Fredholm determinant of Ferrari & Spohn (2005), J. Phys. A 38, computed
# by Bornemann's quadrature (2010), Math. Comp. 79; the test does it again. The error of 1 - F is
# below 0.1 % of itself.
_ENDS = -6.0, 12.0
_SERIES = (
    *(-0.77737993, 6.3761006, -3.2375542, 1.5732459, -0.65197144),
    *(0.205083, -0.030352374, -0.015189031, 0.014512521, -0.0054243365),
    *(-0.00022304926, 0.0017083228, -0.0011718807, 0.00032921737, 0.00013753867),
    *(-0.00022024678, 0.00012611833),
)

# Gauss-Hermite quadrature of a standard normal variable: numpy.polynomial.hermite_e.hermegauss(9).
# That module takes longer to import than a small network to measure.
_HALF = 1.0232556637891326, 2.07684797867783, 3.20542900285647, 4.512745863399783
_NODES = np.array([*(-x for x in _HALF[::-1]), 0.0, *_HALF])
_HALF_WEIGHTS = (
    0.24409750289493953,
    0.04991640676521782,
    2.7891413212317692e-03,
    2.23458440077466e-05,
)
_WEIGHTS = np.array([*_HALF_WEIGHTS[::-1], 0.40634920634920635, *_HALF_WEIGHTS])


def tracy_widom_tail(s: ArrayLike) -> Array:
    """Return the probability that a variable with the Tracy-Widom law (beta = 1) exceeds s.

    Tracy & Widom (1996), Commun. Math. Phys. 177. Beyond 12, it is the limit for large s.
    """
    s = np.asarray(s, dtype=np.float64)
    low, high = _ENDS
    inside = -np.exp(_series((2 * np.clip(s, low, high) - low - high) / (high - low)))
    far = np.maximum(s, high)
    beyond = -2 / 3 * far**1.5 - np.log(4 * math.sqrt(math.pi) * far**0.75)
    return np.where(s < low, 1.0, np.exp(np.where(s > high, beyond, inside)))


def _series(x: Array) -> Array:
    """Return the Chebyshev series at x in [-1, 1], by Clenshaw's recurrence."""
    former = value = np.zeros_like(x)
    for coefficient in _SERIES[:0:-1]:
        value, former = coefficient + 2 * x * value - former, value
    return np.asarray(_SERIES[0] + x * value - former)


def largest_of_gaussian(N: int, M: int) -> tuple[float, float]:
    """Return the centre and the scale of the Tracy-Widom law of the largest eigenvalue of W'W.

    Johnstone (2001), Annals of Statistics 29, theorem 1.1, in the form of Ma (2012), Bernoulli 18:
    its error is of the order M^(-2/3). The entries have variance 1.
    """
    n, m = math.sqrt(N - 0.5), math.sqrt(M - 0.5)
    return (n + m) ** 2, (n + m) * (1 / n + 1 / m) ** (1 / 3)


def spike_p(values: ArrayLike, variance: float, shape: tuple[int, ...]) -> Array:
    """Return the probability that a Gaussian matrix has an eigenvalue as large as each value.

    The largest eigenvalue of W'W has the Tracy-Widom law of `largest_of_gaussian`. The variance of
    the entries is not known but estimated from the median eigenvalue, whose relative error is taken
    as normal, and averaged over: its standard deviation is sqrt(((1.7 + 1.4 r) + (0.83 + 0.5 r)
    log M) / (N M)) and its mean -0.4 r / M, with r = M / N. These were fitted to simulated matrices
    of 50 to 1,000 columns and r from 0.03 to 1, within 6 %; the variance of an eigenvalue in the
    bulk grows like log M (Gustavsson 2005, Ann. Inst. H. Poincaré 41). The positions of a kernel
    are independent matrices, whose largest eigenvalue counts.

    Parameters
    ----------
    values : array_like
        Eigenvalues of W'W / N.
    variance : float
        Of `bulk_variance`.
    shape : tuple of int
        Of W: (n, m) or (out, in, *kernel).
    """
    N, M, positions = max(shape[:2]), min(shape[:2]), math.prod(shape[2:])
    centre, spread = largest_of_gaussian(N, M)
    r = M / N
    squared = (1.7 + 1.4 * r + (0.83 + 0.5 * r) * math.log(M)) / (N * M * positions)
    error = 1 - 0.4 * r / M + math.sqrt(squared) * _NODES
    scaled = np.multiply.outer(N * np.asarray(values, dtype=np.float64) / variance, error)
    one = tracy_widom_tail((scaled - centre) / spread) @ _WEIGHTS
    with np.errstate(divide="ignore"):
        return -np.expm1(positions * np.log1p(-np.minimum(one, 1.0)))


def count_spikes(eigenvalues: Array, variance: float, shape: tuple[int, ...]) -> int:
    """Return how many eigenvalues are larger than a random matrix with the same bulk would have.

    Those whose `spike_p` is at most 5 %: a Gaussian matrix has a spike in 5 % of cases. Independent
    entries with heavy tails, which nothing was learned from, also have spikes: the traps of a
    permuted copy show it.
    """
    return int(np.count_nonzero(spike_p(eigenvalues, variance, shape) <= LEVEL))
