"""Eigenvalues -> posterior of alpha when xmin is unknown: interval, ROPE, length of the tail.

Plain arrays in and out. A power law above an unknown xmin is a change point in the log-spacings of
the eigenvalues: the first k spacings E_i are exponential with one rate, beta = alpha - 1, and those
below follow the model of `change_points`, which gives the evidence Q of everything below every
possible end of the tail. With a flat prior of beta, which integrates in closed form,

    weight of an end ~ prior Gamma(k + 1) S_k^-(k + 1) Q,    beta | end ~ Gamma(k + 1, S_k),

where S_k is the sum of the k spacings. The posterior of alpha is the mixture of 1 + Gamma(k + 1,
S_k). Each component is called a window.

The largest eigenvalues need not belong to the power law: the top of a trained matrix often has a
few outliers, and a finite matrix cuts a power law off. So the tail may begin below 1, 2, 3, 5, 8 or
12 outliers, whose spacings share a rate with the prior Gamma(1, s); the prior probability of any is
1/5. A window then has the spacings between its outliers and its end. Windows of fewer than 30
eigenvalues, for which nothing is claimed, have their prior multiplied by (size / 30)^2: a few of
them are steep by chance, and would make the mean and the interval of long tails much wider.

Only ratios of eigenvalues are used, so the scale of the weights has no effect. The constants were
set by simulation on one half of a family of bodies; docs/calibration.md has the coverage on the
other.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specdiag.htsr.statistics import LEVEL
from specdiag.htsr.tail.change_points import MIN_SPACINGS, layout, scale, spacings, tail_ends
from specdiag.htsr.tail.power_law import TIE, Array, checked_eigenvalues
from specdiag.notebook import record_html

SHORT_TAIL = 30  # coverage was measured for tails of at least this many eigenvalues
OUTLIERS = (0, 1, 2, 3, 5, 8, 12)  # above the tail
OUTLIERS_PRIOR = 0.2  # probability of one or more
SHORT_PRIOR = 2  # exponent of size / SHORT_TAIL in the prior of short tails
MIN_WINDOW = 10  # spacings that a tail below outliers must have
ROPE = (1.9, 2.1)  # region of practical equivalence around alpha = 2

_NEGLIGIBLE = 1e-7  # windows with less than this share of the largest weight are left out


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """Posterior of alpha: a mixture over the tail sizes that are not negligible.

    Attributes
    ----------
    mean, sd : float
        Of alpha.
    interval : tuple of float
        95 %, equal-tailed.
    below_2 : float
        Probability that alpha is below 2.
    rope : float
        Probability that alpha is from 1.9 to 2.1.
    n_tail : float
        Posterior mean of the number of eigenvalues in the tail: at or above xmin, without outliers.
    n_outliers : float
        Posterior mean of the number of eigenvalues above the tail that do not belong to it.
    xmin : float
        Posterior median of the smallest eigenvalue of the tail.
    short_tail : float
        Probability that the tail has fewer than 30 eigenvalues.
    n_windows : float
        Effective number of windows: exp of the entropy of their weights.
    windows, weights : ndarray of shape (n_windows,)
        Tail sizes that are not negligible, and their probabilities.
    shape, rate : ndarray of shape (n_windows,)
        Of the Gamma distribution of alpha - 1, given each tail size.
    """

    mean: float = math.nan
    sd: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    below_2: float = math.nan
    rope: float = math.nan
    n_tail: float = math.nan
    n_outliers: float = math.nan
    xmin: float = math.nan
    short_tail: float = math.nan
    n_windows: float = math.nan
    windows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    weights: Array = field(default_factory=lambda: np.empty(0))
    shape: Array = field(default_factory=lambda: np.empty(0))
    rate: Array = field(default_factory=lambda: np.empty(0))

    _repr_html_ = record_html


NO_POSTERIOR = Posterior()


def alpha_posterior(eigenvalues: ArrayLike) -> Posterior:
    """Return the posterior of the exponent of the tail, averaged over the unknown xmin.

    Parameters
    ----------
    eigenvalues : array_like of shape (n_eigenvalues,)
        Positive, in any order, those above the rank gate. Fewer than 16, or all of them equal, give
        a posterior of NaN.

    Returns
    -------
    Posterior
        The interval is equal-tailed, nominally 95 %, for independent draws from a power law above
        some xmin with 30 or more of them in the tail; docs/calibration.md has the coverage.
        `short_tail` is the probability that the tail is shorter. Nothing marks a tail that becomes
        a power law only in the limit (Burr, squared Student t): no interval can adapt to an unknown
        smoothness and keep its coverage (Low 1997, Ann. Statist. 25).

    Raises
    ------
    ValueError
        If the eigenvalues are not one-dimensional, or not all positive and finite.
    """
    x = checked_eigenvalues(eigenvalues)[::-1]
    logs = np.log(x)
    if len(x) <= MIN_SPACINGS or logs[0] - logs[-1] <= TIE * len(x):
        return NO_POSTERIOR
    ends, outliers, total, weight = windows(logs)
    keep = weight > _NEGLIGIBLE * weight.max()
    ends, outliers, total = ends[keep], outliers[keep], total[keep]
    weight = weight[keep] / weight[keep].sum()
    k = ends - outliers
    order = np.argsort(ends, kind="stable")
    median = order[np.searchsorted(np.cumsum(weight[order]), 0.5)]
    return replace(
        mixture_posterior(k + 1.0, total, weight),
        n_tail=float(weight @ (k + 1)),
        n_outliers=float(weight @ outliers),
        xmin=float(x[ends[median]]),
        short_tail=float(weight[k + 1 < SHORT_TAIL].sum()),
        n_windows=math.exp(-float(weight @ np.log(weight))),
        windows=k + 1,
    )


def mixture_posterior(shape: Array, rate: Array, weight: Array) -> Posterior:
    """Return the posterior whose alpha - 1 is a mixture of Gamma distributions, without windows.

    Each array has one value for each component; the weights sum to 1.
    """
    center = shape / rate
    beta = float(weight @ center)
    mixture = _Mixture(shape, rate, weight)
    low, high = mixture.quantiles(np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Posterior(
        mean=1 + beta,
        sd=math.sqrt(float(weight @ ((center - beta) ** 2 + center / rate))),
        interval=(1 + float(low), 1 + float(high)),
        below_2=mixture.cdf(2 - 1),
        rope=mixture.cdf(ROPE[1] - 1) - mixture.cdf(ROPE[0] - 1),
        weights=weight,
        shape=shape,
        rate=rate,
    )


def alpha_quantiles(posterior: Posterior, p: ArrayLike) -> Array:
    """Return quantiles of alpha at probabilities p; NaN if the posterior is NaN."""
    probability = np.asarray(p, dtype=np.float64)
    if not len(posterior.weights):
        return np.full(probability.shape, math.nan)
    mixture = _Mixture(posterior.shape, posterior.rate, posterior.weights)
    return 1 + mixture.quantiles(probability)


def posterior_mean(eigenvalues: Array) -> float:
    """Return the posterior mean of alpha, for descending eigenvalues; the statistic of `null`."""
    ends, outliers, total, weight = windows(np.log(eigenvalues))
    return 1 + float(weight @ ((ends - outliers + 1) / total))


def windows(logs: Array) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, Array]:
    """Return the windows: where each ends, its outliers, the sum of its spacings, and its weight.

    The log-eigenvalues must be descending, at least 16, and not all equal. A window reaches from
    spacing `outliers` to spacing `ends`; windows within ties of the top are left out. Each array
    has shape (n_windows,).
    """
    e = spacings(logs)
    ends, log_weight = tail_ends(e)
    log_gamma = layout(len(e)).log_gamma
    cumulative = np.concatenate([[0.0], np.cumsum(e)])
    outliers = np.array(OUTLIERS)
    log_above = log_outliers(e)
    k = ends - outliers[:, None]
    total = cumulative[ends] - cumulative[outliers, None]
    valid = (k >= MIN_WINDOW) & (total > TIE * k)
    k, total = np.where(valid, k, 1), np.where(valid, total, 1.0)
    log_weight = log_above[:, None] + log_weight + log_gamma[k] - (k + 1) * np.log(total)
    log_weight += log_size_prior(k)
    weight = np.exp(log_weight[valid] - log_weight[valid].max())
    which, end = np.nonzero(valid)
    return ends[end], outliers[which], total[valid], weight / weight.sum()


def log_outliers(e: Array) -> Array:
    """Return log(prior times evidence) of each number of outliers, for spacings from the top."""
    s = scale(e)
    outliers = np.array(OUTLIERS)
    above = np.concatenate([[0.0], np.cumsum(e[: OUTLIERS[-1]])])[outliers]
    log_above = math.log(OUTLIERS_PRIOR / (len(OUTLIERS) - 1) * s)
    log_above += layout(len(e)).log_gamma[outliers] - (1 + outliers) * np.log(s + above)
    log_above[0] = math.log(1 - OUTLIERS_PRIOR)
    return log_above


def log_size_prior(k: NDArray[np.int64]) -> Array:
    """Return the log of the factor by which windows of k spacings are less probable."""
    factor: Array = SHORT_PRIOR * np.log(np.minimum((k + 1) / SHORT_TAIL, 1))
    return factor


class _Mixture:
    """A mixture of Gamma distributions on a grid of log beta.

    NumPy has no incomplete gamma function, and importing that of SciPy takes too long (see
    `statistics.student_quantile`). The cumulative distribution is the trapezoidal rule with its
    first Euler-Maclaurin correction. Between grid points it is the cubic with the right values and
    slopes. The error is about 1e-5.
    """

    def __init__(self, shape: Array, rate: Array, weight: Array) -> None:
        width = 1 / np.sqrt(shape)
        center = np.log(shape / rate)
        low, high = float((center - 7 * width).min()), float((center + 7 * width).max())
        grid, step = np.linspace(low, high, 2 + int(4 * (high - low) / width.min()), retstep=True)
        beta = np.exp(grid)
        log_scale = np.log(weight) + shape * np.log(rate) - [math.lgamma(a) for a in shape]
        parts = np.exp(log_scale[:, None] + shape[:, None] * grid - rate[:, None] * beta)
        density = parts.sum(axis=0)
        slope = shape @ parts - beta * (rate @ parts)
        trapezoid = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])]) * step / 2
        self._grid, self._step, self._density = grid, float(step), density
        self._cdf = trapezoid - step**2 / 12 * (slope - slope[0])

    def _between(self, i: Any, t: Any) -> Any:
        """Return the cumulative distribution at grid[i] + t * step, 0 <= t <= 1."""
        low, high = self._cdf[i], self._cdf[i + 1]
        left, right = self._density[i] * self._step, self._density[i + 1] * self._step
        rise = high - low
        cubic, square = left + right - 2 * rise, 3 * rise - 2 * left - right
        return low + t * (left + t * (square + t * cubic))

    def cdf(self, beta: float) -> float:
        place = (math.log(beta) - self._grid[0]) / self._step
        if not 0 <= place < len(self._grid) - 1:
            return 0.0 if place < 0 else 1.0
        return min(max(float(self._between(int(place), place % 1)), 0.0), 1.0)

    def quantiles(self, p: Array) -> Array:
        i = np.clip(np.searchsorted(self._cdf, p) - 1, 0, len(self._grid) - 2)
        t = np.linspace(0, 1, 257)
        curve = self._between(i[:, None], t)
        rows, below = np.arange(len(p)), np.count_nonzero(curve <= p[:, None], axis=1) - 1
        j = np.clip(below, 0, len(t) - 2)
        start = curve[rows, j]
        with np.errstate(divide="ignore", invalid="ignore"):  # beyond both ends
            place = t[j] + (t[j + 1] - t[j]) / (curve[rows, j + 1] - start) * (p - start)
        place = np.where(below < 0, 0.0, np.where(below > j, 1.0, place))
        return np.exp(self._grid[i] + place * self._step)
