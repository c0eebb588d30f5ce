"""Eigenvalues -> the Marchenko-Pastur law of their bulk, its edge, and how far they are from it.

Plain arrays in and out. For a random matrix of shape (n, m) with independent entries of mean zero
and one variance, N = max(n, m) and M = min(n, m), the eigenvalues of W'W / N follow this law, with
ratio = M / N. Marchenko & Pastur (1967), Math. USSR-Sb. 1(4).
"""

import functools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specdiag.htsr.statistics import median

Array = NDArray[np.float64]

_POINTS = 4001  # of the trapezoidal rule, whose error is then below 1e-7


def bulk_variance(eigenvalues: Array, shape: tuple[int, ...]) -> float:
    """Return the variance of the entries of a random matrix with the same median eigenvalue.

    It is the median eigenvalue over the median of the law with unit variance, so a heavy tail does
    not change it: up to half of the eigenvalues may be signal. Gavish & Donoho (2014), IEEE Trans.
    Inf. Theory 60(8), section III-E. Pass all eigenvalues that `esd.eigenvalues` returns for W,
    zeros included, and the shape of W.
    """
    quantiles, share = _law(min(shape[:2]) / max(shape[:2]))
    return median(eigenvalues) / float(np.interp(0.5, share, quantiles))


def marchenko_pastur_edge(variance: float, shape: tuple[int, ...]) -> float:
    """Return the upper edge of the law: variance * (1 + sqrt(M/N))^2."""
    return variance * (1 + math.sqrt(min(shape[:2]) / max(shape[:2]))) ** 2


def marchenko_pastur_density(x: ArrayLike, variance: float, ratio: float) -> Array:
    """Return the density of the law at x; ratio = M / N <= 1. Its mean is the variance."""
    x = np.asarray(x, dtype=np.float64) / variance  # products of tiny variances would be 0
    low, high = ((1 + sign * math.sqrt(ratio)) ** 2 for sign in (-1, 1))
    inside = np.maximum((high - x) * (x - low), 0)
    return np.sqrt(inside) / (2 * np.pi * ratio * x) / variance


def marchenko_pastur_distance(eigenvalues: Array, variance: float, shape: tuple[int, ...]) -> float:
    """Return the largest distance of the distribution of the eigenvalues from that of the law.

    This is the Kolmogorov-Smirnov distance, from 0 to 1. Eigenvalues of a random matrix repel each
    other, so that theirs is about 1 / M, and not the 1 / sqrt(M) of independent draws. The
    eigenvalues are in descending order.
    """
    n = len(eigenvalues)
    quantiles, share = _law(min(shape[:2]) / max(shape[:2]))
    below = np.interp(eigenvalues[::-1] / variance, quantiles, share)
    steps = np.arange(n + 1) / n
    return float(max((below - steps[:-1]).max(), (steps[1:] - below).max()))


@functools.lru_cache(maxsize=1024)
def _law(ratio: float) -> tuple[Array, Array]:
    """Return values, ascending, and the share of the law of unit variance below each.

    With x = 1 + ratio + 2 sqrt(ratio) cos(phi) the density is 2 sin(phi)^2 / (pi x) dphi, which is
    smooth.
    """
    phi = np.linspace(0, np.pi, _POINTS)[:-1]
    x = 1 + ratio + 2 * math.sqrt(ratio) * np.cos(phi)
    density = 2 * np.sin(phi) ** 2 / (np.pi * x)
    above = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * phi[1])])
    return x[::-1], 1 - above[::-1]
