"""Eigenvalues -> does a power law fit their tail: the p-value of a bootstrap.

Plain arrays in and out. A high p-value proves little: with a few dozen eigenvalues a lognormal or
an exponential tail is not rejected in most cases (docs/calibration.md has the power).
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specdiag.htsr.tail.change_points import MIN_SPACINGS
from specdiag.htsr.tail.power_law import ROUNDING, TIE, Array, checked_eigenvalues

REPLICATES = 300  # the smallest p-value is 1 / 301
STOP_AFTER = 20  # sampling stops when so many replicates are as far from their fit as the data
TAIL_SIZES = 48  # tried for data and replicates, geometric from MIN_SPACINGS to all eigenvalues

_POINTS = 16  # of a distribution, looked at first
_BATCH_ELEMENTS = 2_000_000  # bounds memory


def goodness_of_fit(eigenvalues: ArrayLike, *, seed: int = 0) -> float:
    """Return the p-value of the hypothesis that the tail is a power law above some xmin.

    Clauset, Shalizi & Newman (2009), section 4.1: spectra are drawn from the fit (a power law above
    xmin, the observed eigenvalues resampled below) and fitted in the same way, including xmin. The
    p-value is the share of drawn spectra that are at least as far from their fit as the data.
    Sampling stops when 20 of them are (Besag & Clifford 1991, Biometrika 78), so a spectrum that
    fits needs only a few dozen draws. The least possible p-value is 1/301.

    Parameters
    ----------
    eigenvalues : array_like of shape (n_eigenvalues,)
        Positive, above the rank gate, in any order. Fewer than 17, or all of them equal, give NaN.
    seed : int
        The same seed gives the same p-value.

    Raises
    ------
    ValueError
        If the eigenvalues are not one-dimensional, or not all positive and finite.
    """
    logs = np.log(checked_eigenvalues(eigenvalues))[::-1]
    n = len(logs)
    if n <= MIN_SPACINGS + 1:
        return math.nan
    sizes = np.unique(np.round(np.geomspace(MIN_SPACINGS, n - 1, TAIL_SIZES)).astype(int))
    distance, beta, k = _best_fit(logs, sizes)
    if not math.isfinite(beta):
        return math.nan
    rng = np.random.default_rng(seed)
    used = exceeded = 0
    batch = 2 * STOP_AFTER
    while used < REPLICATES and exceeded < STOP_AFTER:
        count = max(1, min(batch, REPLICATES - used, _BATCH_ELEMENTS // n))
        drawn = _replicates(rng, logs, k, beta, count)
        total = exceeded + np.cumsum(~_fit_better(drawn, sizes, distance))
        used += min(count, int(np.searchsorted(total, STOP_AFTER)) + 1)
        exceeded = min(int(total[-1]), STOP_AFTER)
        batch *= 2
    return exceeded / used if exceeded == STOP_AFTER else (exceeded + 1) / (REPLICATES + 1)


def _best_fit(logs: Array, sizes: NDArray[np.int64]) -> tuple[float, float, int]:
    """Return the least Kolmogorov-Smirnov distance over the tail sizes, with its beta and size.

    Parameters
    ----------
    logs : ndarray of shape (n_eigenvalues,)
        Log-eigenvalues, descending.
    sizes : ndarray of shape (n_sizes,)
        For size k, xmin is the (k+1)-th largest eigenvalue, and the tail the k above it.

    Returns
    -------
    distance, beta, size
        Distance 1 and beta NaN if no tail has two distinct eigenvalues.
    """
    (least,), (rates,) = _bounds(logs[None], sizes)
    best, beta, chosen = 1.0, math.nan, int(sizes[0])
    for j in np.argsort(least, kind="stable"):
        if not least[j] <= best * (1 + ROUNDING):
            break
        k = int(sizes[j])
        distance = float(_distances(logs[None], k, rates[[j]])[0])
        if distance < best or (distance == best and k < chosen):
            best, beta, chosen = distance, float(rates[j]), k
    return best, beta, chosen


def _fit_better(logs: Array, sizes: NDArray[np.int64], distance: float) -> NDArray[np.bool_]:
    """Return for each spectrum, a row, whether its least distance over the sizes is below this one.

    That is decided by the first size whose distance is.
    """
    least, rates = _bounds(logs, sizes)
    possible = least < distance
    better = np.zeros(len(logs), dtype=np.bool_)
    for j in np.argsort(-possible.sum(axis=0), kind="stable"):
        rows = np.flatnonzero(possible[:, j] & ~better)
        if len(rows):
            k = int(sizes[j])
            better[rows] = _distances(logs[rows, : k + 1], k, rates[rows, j]) < distance
    return better


def _bounds(logs: Array, sizes: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return lower bounds of the distances, from a few points, and the rates of the fits.

    Both have the shape (n_spectra, n_sizes), and are NaN where all k eigenvalues are equal.
    """
    excess = np.cumsum(logs, axis=1)[:, sizes - 1] - sizes * logs[:, sizes]
    rates = np.divide(
        sizes, excess, out=np.full(excess.shape, math.nan), where=excess > sizes * TIE
    )
    points = np.arange(_POINTS) * sizes[:, None] // _POINTS
    survival = np.exp((logs[:, sizes, None] - logs[:, points]) * rates[:, :, None])
    survival -= (points + 0.5) / sizes[:, None]
    least: Array = np.abs(survival, out=survival).max(axis=2) + 0.5 / sizes
    return least, rates


def _distances(logs: Array, k: int, rate: Array) -> Array:
    """Return the distances of the k largest values from their fits."""
    survival = np.exp((logs[:, k, None] - logs[:, :k]) * rate[:, None])
    survival -= (np.arange(k) + 0.5) / k  # midway between the two sides of the empirical step
    distance: Array = np.abs(survival, out=survival).max(axis=1) + 0.5 / k
    return distance


def _replicates(rng: "np.random.Generator", logs: Array, k: int, beta: float, count: int) -> Array:
    n = len(logs)
    in_tail = rng.random((count, n)) < k / n
    body = logs[rng.integers(k, n, (count, n))]
    drawn = np.where(in_tail, logs[k] + rng.standard_exponential((count, n)) / beta, body)
    drawn.sort(axis=1)
    return drawn[:, ::-1]
