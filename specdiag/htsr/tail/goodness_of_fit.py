"""Eigenvalues -> does a power law fit their tail: bootstrap p-value, and likelihood ratios.

Plain arrays in and out. A high p-value proves little: with a few dozen eigenvalues a lognormal or
an exponential tail is not rejected in most cases (docs/calibration.md has the power).
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specdiag.htsr.tail.change_points import MIN_SPACINGS
from specdiag.htsr.tail.power_law import TIE, Array, checked_eigenvalues

REPLICATES = 300  # the smallest p-value is 1 / 301
STOP_AFTER = 20  # sampling stops when so many replicates are as far from their fit as the data
TAIL_SIZES = 48  # tried for data and replicates, geometric from MIN_SPACINGS to all eigenvalues
ALTERNATIVES = ("lognormal", "exponential", "truncated_power_law", "stretched_exponential")

EVALUATIONS = 50  # of a likelihood, at most; most fits need about 8
ROUNDING = 1e-13  # relative, of a log-likelihood

Moments = Callable[[Array], tuple[float, Array, Array]]

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
        if not least[j] <= best:
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


def likelihood_ratios(tail: ArrayLike, xmin: float) -> dict[str, tuple[float, float]]:
    """Return how much better a power law fits than each alternative, all fitted above xmin.

    Parameters
    ----------
    tail : array_like of shape (n_tail,)
        The eigenvalues at or above xmin.
    xmin : float
        Where the tail begins.

    Returns
    -------
    dict
        For each of `ALTERNATIVES`: the log-likelihood of the power law minus that of the
        alternative, and a two-sided p-value of the hypothesis that this ratio is zero. A positive
        ratio favours the power law. Vuong (1989), Econometrica 57, as in Clauset et al. (2009),
        section 5. For the truncated power law, which contains the power law, the p-value is that of
        Wilks' chi-square. NaN if the tail has fewer than 3 distinct eigenvalues.

    Raises
    ------
    ValueError
        If the eigenvalues are invalid, or one is below xmin.

    Notes
    -----
    The power law is a limit of the lognormal and of the stretched exponential. If that limit is the
    best fit of the alternative, the ratio is 0 and p is 1.
    """
    x = checked_eigenvalues(tail)
    if not (xmin > 0 and (not len(x) or x[0] >= xmin)):
        raise ValueError(f"xmin is {xmin}: expected a positive number, no eigenvalue below it")
    y = np.log(x) - math.log(xmin)
    if np.count_nonzero(np.diff(y) > TIE) < 2:
        return dict.fromkeys(ALTERNATIVES, (math.nan, math.nan))
    beta = 1 / y.mean()
    power_law = math.log(beta) - beta * y
    growth = np.expm1(y)
    fits = {
        "lognormal": _curved(y, np.square),
        "exponential": -math.log(growth.mean()) + y - growth / growth.mean(),
        "truncated_power_law": _curved(y, np.expm1),
        "stretched_exponential": _stretched_exponential(y),
    }
    return {
        name: _compare(power_law, fits[name], nested=name == "truncated_power_law")
        for name in ALTERNATIVES
    }


def _compare(power_law: Array, other: Array, *, nested: bool) -> tuple[float, float]:
    difference = power_law - other
    ratio = float(difference.sum())
    spread = float(difference.std())
    if abs(ratio) < 1e-6 or spread == 0:  # the alternative is the power law, except for rounding
        return 0.0, 1.0
    if nested:
        return ratio, math.erfc(math.sqrt(abs(ratio)))
    return ratio, math.erfc(abs(ratio) / (spread * math.sqrt(2 * len(difference))))


def _curved(y: Array, curve: Callable[[Array], Array]) -> Array:
    """Return log-densities of y under its best exp(-a y - b curve(y)) / Z on y >= 0, with b >= 0.

    With curve(y) = y^2 this is the lognormal, cut at xmin; with curve(y) = e^y - 1 it is the power
    law with exponential cut-off. If the likelihood is largest at b <= 0, the power law itself is
    the best of the family.
    """
    mean, moments = y.mean(), exponential_family(y, curve)
    # b > 0 lowers the mean of curve(y); that of the data is not below that of the power law.
    if moments(np.array([1.0, 1e-9]))[1][1] <= 1:
        return -math.log(mean) - y / mean
    theta = maximise(moments)
    return -(theta[0] * y / mean + theta[1] * curve(y) / curve(y).mean()) - moments(theta)[0]


def exponential_family(y: Array, curve: Callable[[Array], Array]) -> Moments:
    """Return the moments of the family exp(-theta . (y / mean, curve(y) / its mean)) / Z, y >= 0.

    Given theta, they are log Z, the means of the two statistics, and their covariance, by Simpson's
    rule. The power law has theta = (1, 0), and at the maximum of the likelihood both means are 1.
    """
    mean = y.mean()
    grid = np.linspace(0, 40 * mean, 8001)  # beyond 40 means, a log-concave density is negligible
    with np.errstate(over="ignore"):
        statistics = np.stack([grid, np.minimum(curve(grid), 1e300)])
    statistics /= np.array([mean, curve(y).mean()])[:, None]
    simpson = np.tile([2.0, 4.0], 4001)[:-1] * grid[1] / 3
    simpson[[0, -1]] /= 2

    def moments(theta: Array) -> tuple[float, Array, Array]:
        exponent = -(theta @ statistics)
        top = exponent.max()
        weight = np.exp(exponent - top)
        weight *= simpson
        total = weight.sum()
        first = statistics @ weight / total
        second = (statistics * weight) @ statistics.T / total
        log_z = top + math.log(total)
        return log_z, first, second - np.outer(first, first)

    return moments


def maximise(moments: Moments) -> Array:
    """Return the natural parameters whose expected statistics are all 1, by damped Newton steps.

    The log-likelihood of an exponential family is concave (Boyd & Vandenberghe 2004, section 9.5).
    The Newton decrement is twice the log-likelihood that is still to be gained, a value: the search
    ends where that is only rounding of the log-likelihood.
    """
    theta = np.array([1.0, 1e-3])
    value, first, covariance = moments(theta)
    shrink = 1.0
    for _ in range(EVALUATIONS - 1):
        gradient = first - 1  # of the mean log-likelihood -(theta . 1) - log Z
        step = np.linalg.solve(covariance + 1e-12 * np.eye(2), gradient)
        height = -theta.sum() - value
        if gradient @ step <= ROUNDING * max(1.0, abs(height)):
            break
        trial = theta + shrink * step
        at_trial = moments(trial) if trial[1] > 0 else None
        if at_trial and -trial.sum() - at_trial[0] >= height:
            theta, (value, first, covariance) = trial, at_trial
            shrink = 1.0
        else:
            shrink /= 2
    return theta


def _stretched_exponential(y: Array) -> Array:
    """Return log-densities of y under its best Weibull tail, c b exp(c y - b (exp(c y) - 1)).

    Given the shape c, b = 1 / mean(exp(c y) - 1); c is searched on a grid that is refined three
    times. As c goes to 0, the density becomes the power law.
    """

    def log_density(c: Array) -> Array:
        growth = np.expm1(c[:, None] * y)
        b = 1 / growth.mean(axis=1)
        return np.log(c * b)[:, None] + c[:, None] * y - b[:, None] * growth

    low, high = 1e-4 / y.mean(), min(50 / y.mean(), 300 / y.max())
    for level in range(4):
        shapes = np.geomspace(low, high, 40)
        best = int(log_density(shapes).sum(axis=1).argmax())
        if level == best == 0:
            return -math.log(y.mean()) - y / y.mean()
        low, high = shapes[max(best - 1, 0)], shapes[min(best + 1, 39)]
    best_density: Array = log_density(shapes[[best]])[0]
    return best_density
