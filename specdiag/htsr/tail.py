"""Eigenvalues -> power-law fit of their tail: alpha, xmin, Kolmogorov-Smirnov distance, tail size.

Plain arrays in and out. The density of the tail is p(x) = (alpha - 1) / xmin (x / xmin)^-alpha for
x >= xmin.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specdiag.notebook import record_html

# Eigenvalues whose logarithms differ by less are one repeated value: the eigensolver rounds at
# about 1e-13, and distinct eigenvalues of real matrices are this close about once in 10^5 spectra.
TIE = 1e-9

# Rows of the (xmin, eigenvalue) table that the scan holds at a time: keeps it in cache.
_BLOCK = 32


@dataclass(frozen=True, kw_only=True)
class TailFit:
    """A power law fitted above the best xmin; NaN and n_tail 0 when there is no tail to fit.

    Attributes
    ----------
    alpha : float
        Exponent of the density.
    xmin : float
        The smallest eigenvalue of the tail.
    ks_distance : float
        Kolmogorov-Smirnov distance of tail and power law.
    n_tail : int
        Eigenvalues at or above xmin.
    """

    alpha: float
    xmin: float
    ks_distance: float
    n_tail: int

    _repr_html_ = record_html

    @property
    def sigma(self) -> float:
        """The standard error of alpha were xmin known: (alpha - 1) / sqrt(n_tail). Too small."""
        return (self.alpha - 1) / math.sqrt(self.n_tail) if self.n_tail else math.nan


NO_FIT = TailFit(alpha=math.nan, xmin=math.nan, ks_distance=math.nan, n_tail=0)


def fit_alpha(eigenvalues: ArrayLike) -> TailFit:
    """Return the power law whose tail is nearest to the eigenvalues, over every possible xmin.

    Every distinct eigenvalue with another one above it is tried as xmin: ``alpha = 1 + n / sum(log(x / xmin))``
    over the n eigenvalues of the tail, and the distance is the largest ``|F(x) - (rank from below - 1) / n|``. The xmin of least distance wins, the smallest
    one when several tie. Clauset, Shalizi & Newman (2009), SIAM Review 51(4), equations 3.1 and
    3.9. The same rules as weightwatcher's fitter and the powerlaw package, without their caps.

    A tail may have as few as 2 eigenvalues, and is noise then: read alpha with `n_tail`. A large
    minimum is no cure: 50 of 128 eigenvalues force alpha down (a true 4.0 is measured as 2.5).

    Parameters
    ----------
    eigenvalues : array_like of shape (n_eigenvalues,)
        Positive, in any order: drop those below `rank_gate` first.

    Returns
    -------
    TailFit
        All NaN with n_tail 0 when no xmin leaves two distinct eigenvalues in its tail.

    Raises
    ------
    ValueError
        When the eigenvalues are not one-dimensional, or not all positive and finite.
    """
    x = checked_eigenvalues(eigenvalues)
    if len(x) < 2:
        return NO_FIT

    logs = np.log(x)
    logs -= logs[-1]
    n = np.arange(len(x), 0, -1)
    excess = np.cumsum(logs[::-1])[::-1] - n * logs
    first_of_ties = np.diff(logs, prepend=-np.inf) > TIE
    candidates = np.flatnonzero(first_of_ties & (n >= 2) & (excess > n * TIE))
    if not len(candidates):
        return NO_FIT
    alpha = 1 + n[candidates] / excess[candidates]
    distance = _ks_distances(logs, candidates, alpha)
    best = int(np.argmin(distance))
    i = candidates[best]
    return TailFit(
        alpha=float(alpha[best]),
        xmin=float(x[i]),
        ks_distance=float(distance[best]),
        n_tail=int(n[i]),
    )


def checked_eigenvalues(eigenvalues: ArrayLike) -> NDArray[np.float64]:
    """Return the eigenvalues in ascending order; raise ValueError for what is no spectrum."""
    if np.iscomplexobj(eigenvalues):
        raise ValueError("eigenvalues are complex: expected real numbers")
    x = np.asarray(eigenvalues, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"eigenvalues have shape {x.shape}: expected one dimension")
    x = np.sort(x)
    if len(x) and not (x[0] > 0 and np.isfinite(x[-1])):
        raise ValueError("eigenvalues must be positive and finite: drop those below the rank gate")
    return x


def _ks_distances(
    logs: NDArray[np.float64], candidates: NDArray[np.intp], alpha: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the Kolmogorov-Smirnov distance of the tail above each candidate xmin.

    The empirical distribution function is taken at its left limit, (j - i) / n, as in Clauset,
    Shalizi & Newman (2009) and both packages.
    """
    size = len(logs)
    distance = np.empty(len(candidates))
    for start in range(0, len(candidates), _BLOCK):
        rows = slice(start, start + _BLOCK)
        i = candidates[rows, None]
        j = np.arange(i[0, 0], size)
        share = 1 / (size - i)
        gap = (logs[j] - logs[i]) * (1 - alpha[rows, None])
        np.exp(np.minimum(gap, 0, out=gap), out=gap)  # the fitted share above each eigenvalue
        gap -= (size - j) * share  # the empirical one
        first = i[-1, 0] - i[0, 0]  # only columns before the last xmin can lie below an xmin
        gap[:, :first][j[:first] < i] = 0
        distance[rows] = np.maximum(gap.max(axis=1), -gap.min(axis=1))
    return distance
