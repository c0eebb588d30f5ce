"""Eigenvalues -> power-law fit of their tail: alpha, xmin, Kolmogorov-Smirnov distance, tail size.

Plain arrays in and out. The density of the tail is p(x) = (alpha - 1) / xmin (x / xmin)^-alpha for
x >= xmin.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specdiag.notebook import record_html

Array = NDArray[np.float64]

# Eigenvalues whose logarithms differ by less are one repeated value. The eigensolver rounds at
# about 1e-13, and distinct eigenvalues of real matrices are this close in one of 10^5 spectra.
TIE = 1e-9
ROUNDING = 1e-12  # relative, of a distance

# Rows of the (xmin, eigenvalue) table that are computed at a time, so that they fit into the cache.
_BLOCK = 32
_STEP = 16  # one eigenvalue of so many bounds the distance of most candidates from below


@dataclass(frozen=True, kw_only=True)
class TailFit:
    """A power law fitted above the best xmin; NaN and n_tail 0 if no tail can be fitted.

    Attributes
    ----------
    alpha : float
        Exponent of the density.
    xmin : float
        The smallest eigenvalue of the tail.
    ks_distance : float
        Kolmogorov-Smirnov distance between tail and power law.
    n_tail : int
        Number of eigenvalues at or above xmin.
    """

    alpha: float
    xmin: float
    ks_distance: float
    n_tail: int

    _repr_html_ = record_html

    @property
    def sigma(self) -> float:
        """Standard error of alpha if xmin were known, so too small: (alpha - 1) / sqrt(n_tail)."""
        return (self.alpha - 1) / math.sqrt(self.n_tail) if self.n_tail else math.nan

    def scaled(self, factor: float) -> "TailFit":
        """Return the fit of eigenvalues that are larger by a factor."""
        return replace(self, xmin=self.xmin * factor)


NO_FIT = TailFit(alpha=math.nan, xmin=math.nan, ks_distance=math.nan, n_tail=0)


def fit_alpha(
    eigenvalues: ArrayLike, between: tuple[float, float] = (-math.inf, math.inf)
) -> TailFit:
    """Return the power law whose tail is nearest to the eigenvalues, over all possible xmin.

    Every distinct eigenvalue with another one above it is tried as xmin. Over the n eigenvalues of
    its tail, ``alpha = 1 + n / sum(log(x / xmin))``, and the distance is the largest
    ``|F(x) - (rank from below - 1) / n|``. The xmin with the least distance is chosen; if several
    have it, the smallest. Clauset, Shalizi & Newman (2009), SIAM Review 51(4), equations 3.1 and
    3.9. These are the rules of weightwatcher's fitter and of the powerlaw package, without their
    upper limits.

    A tail may have as few as 2 eigenvalues; its alpha is then noise, so read alpha together with
    `n_tail`. A large minimum does not help: a tail of at least 50 of 128 eigenvalues makes alpha
    too low (a true 4.0 is measured as 2.5).

    Parameters
    ----------
    eigenvalues : array_like of shape (n_eigenvalues,)
        Positive, in any order; pass those of `resolved_eigenvalues`.
    between : tuple of float
        The smallest and the largest xmin to try.

    Returns
    -------
    TailFit
        All NaN with n_tail 0 if no xmin has two distinct eigenvalues in its tail.

    Raises
    ------
    ValueError
        If the eigenvalues are not one-dimensional, or not all positive and finite.
    """
    x = checked_eigenvalues(eigenvalues)
    if len(x) < 2:
        return NO_FIT

    logs = np.log(x)
    logs -= logs[-1]
    n = np.arange(len(x), 0, -1)
    excess = np.cumsum(logs[::-1])[::-1] - n * logs
    first_of_ties = np.diff(logs, prepend=-np.inf) > TIE
    allowed = (x >= between[0]) & (x <= between[1])
    candidates = np.flatnonzero(first_of_ties & allowed & (n >= 2) & (excess > n * TIE))
    if not len(candidates):
        return NO_FIT
    alpha = 1 + n[candidates] / excess[candidates]
    least = _ks_distances(logs, candidates, alpha, _STEP)
    likely = np.sort(np.argsort(least)[:_BLOCK])
    found = _ks_distances(logs, candidates[likely], alpha[likely]).min()
    near = np.flatnonzero(least <= found * (1 + ROUNDING))
    distance = _ks_distances(logs, candidates[near], alpha[near])
    nearest = int(np.argmin(distance))
    best = near[nearest]
    i = candidates[best]
    return TailFit(
        alpha=float(alpha[best]),
        xmin=float(x[i]),
        ks_distance=float(distance[nearest]),
        n_tail=int(n[i]),
    )


def fit_above(eigenvalues: ArrayLike, first: int) -> TailFit:
    """Return the power law of Hill's estimator, whose xmin is the eigenvalue at an index.

    Parameters
    ----------
    eigenvalues : array_like of shape (n_eigenvalues,)
        In any order; those of the tail are positive.
    first : int
        Index of xmin among them in ascending order.

    Returns
    -------
    TailFit
        As of `fit_alpha`; all NaN with n_tail 0 if all eigenvalues of the tail are equal.
    """
    x = checked_eigenvalues(np.sort(np.asarray(eigenvalues, dtype=np.float64))[first:])
    logs = np.log(x) - math.log(x[0])
    if not logs.sum() > len(x) * TIE:
        return NO_FIT
    alpha = 1 + len(x) / logs.sum()
    (distance,) = _ks_distances(logs, np.zeros(1, np.intp), np.array([alpha]))
    return TailFit(alpha=float(alpha), xmin=float(x[0]), ks_distance=float(distance), n_tail=len(x))


def checked_eigenvalues(eigenvalues: ArrayLike) -> Array:
    """Return the eigenvalues in ascending order; raise ValueError if they are invalid."""
    if np.iscomplexobj(eigenvalues):
        raise ValueError("eigenvalues are complex: expected real numbers")
    x = np.asarray(eigenvalues, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"eigenvalues have shape {x.shape}: expected one dimension")
    x = np.sort(x)
    if len(x) and not (x[0] > 0 and np.isfinite(x[-1])):
        raise ValueError("eigenvalues must be positive and finite: drop those below the rank gate")
    return x


def _ks_distances(logs: Array, candidates: NDArray[np.intp], alpha: Array, step: int = 1) -> Array:
    """Return the Kolmogorov-Smirnov distance of the tail above each candidate xmin.

    The empirical distribution function is taken at its left limit, (j - i) / n, as in Clauset,
    Shalizi & Newman (2009) and in both packages. With a step, only one eigenvalue of so many is
    compared, from the largest down, so the distances are at most those of all.
    """
    size = len(logs)
    distance = np.empty(len(candidates))
    for start in range(0, len(candidates), _BLOCK * step):
        rows = slice(start, start + _BLOCK * step)
        i = candidates[rows, None]
        j = np.arange(size - 1, i[0, 0] - 1, -step)[::-1]
        share = 1 / (size - i)
        gap = (logs[j] - logs[i]) * (1 - alpha[rows, None])
        np.exp(np.minimum(gap, 0, out=gap), out=gap)  # the fitted share above each eigenvalue
        gap -= (size - j) * share  # minus the empirical share
        first = np.searchsorted(j, i[-1, 0])  # only columns before it can be below an xmin
        gap[:, :first][j[:first] < i] = 0
        distance[rows] = np.maximum(gap.max(axis=1), -gap.min(axis=1))
    return distance
