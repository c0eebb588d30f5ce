"""Eigenvalues -> posterior of alpha when xmin is unknown: interval, ROPE, length of the tail.

Plain arrays in and out. Sort n eigenvalues downwards, lambda_1 >= ... >= lambda_n, and take the
normalised log-spacings E_i = i log(lambda_i / lambda_{i+1}), i = 1 ... n-1. Where the density is a
power law, they are independent exponentials of one rate, beta = alpha - 1 (Rényi 1953, Acta Math.
Hung. 4; their mean over i <= k is Hill's estimator). Below xmin their rate is the hazard of log
lambda, which can have any form. A power law above an unknown xmin is thus a change point in a
sequence of exponentials:

- the first k spacings share a rate beta ~ Gamma(1, 0.1);
- the other m = n - 1 - k fall into round(4 m^(1/3)) blocks of equally many, each with its own rate,
  Gamma(3, 1.5 s), where s = median(E) / log 2 sets the scale.

The prior of k is proportional to 1 / (k + 1), 15 <= k <= n - 1. All rates integrate in closed form,

    log m(a, b; k, S) = a log b - lgamma(a) + lgamma(a + k) - (a + k) log(b + S),   S = sum of E_i,

so each k, called a window, has an evidence of the *whole* spectrum. The weights of the windows are
the softmax of these evidences, and the posterior of alpha is the mixture of
1 + Gamma(1 + k, 0.1 + S_k). Only ratios of eigenvalues are used, so the scale of the weights has no
effect. The block rule and the prior of the body were set by simulation; docs/calibration.md has the
coverage.
"""

import functools
import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specdiag.htsr.statistics import LEVEL
from specdiag.htsr.tail.power_law import TIE, Array, checked_eigenvalues
from specdiag.notebook import record_html

MIN_SPACINGS = 15  # a shorter tail cannot be distinguished from the last points of a body
SHORT_TAIL = 30  # coverage was measured for tails of at least this many eigenvalues
TAIL_SHAPE, TAIL_RATE = 1, 0.1  # a prior that weighs as much as one spacing
BODY_SHAPE, BODY_RATE = 3.0, 1.5
BODY_BLOCKS = 4.0
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
        Posterior mean of the number of eigenvalues at or above xmin.
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
        The interval is equal-tailed, nominally 95 %. On independent draws it covers 92 to 98 % for
        tails of 30 or more, except for a few kinds of bodies (85 % if the body is itself a power
        law and larger than the tail). `short_tail` is the probability that the tail is shorter;
        the interval of such a tail may cover in only half of the cases.

    Raises
    ------
    ValueError
        If the eigenvalues are not one-dimensional, or not all positive and finite.
    """
    x = checked_eigenvalues(eigenvalues)[::-1]
    logs = np.log(x)
    if len(x) <= MIN_SPACINGS or logs[0] - logs[-1] <= TIE:
        return NO_POSTERIOR
    k, total, weight = windows(logs)
    keep = weight > _NEGLIGIBLE * weight.max()
    k, total, weight = k[keep], total[keep], weight[keep] / weight[keep].sum()
    return replace(
        mixture_posterior(float(TAIL_SHAPE) + k, TAIL_RATE + total, weight),
        n_tail=float(weight @ (k + 1)),
        xmin=float(x[k[np.searchsorted(np.cumsum(weight), 0.5)]]),
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
    k, total, weight = windows(np.log(eigenvalues))
    return 1 + float(weight @ ((TAIL_SHAPE + k) / (TAIL_RATE + total)))


def windows(logs: Array) -> tuple[NDArray[np.int64], Array, Array]:
    """Return the number of spacings k of every window, their sum, and its posterior weight.

    The log-eigenvalues must be descending, at least 16, and not all equal.
    """
    n_spacings = len(logs) - 1
    spacings = np.arange(1, n_spacings + 1) * -np.diff(logs)
    cumulative = np.concatenate([[0.0], np.cumsum(spacings)])
    scale = float(np.median(spacings[spacings > TIE])) / math.log(2)
    k, edges, body_shape, constant = _layout(n_spacings)
    body_rate = BODY_RATE * scale
    body_total = np.diff(cumulative[edges], axis=1)
    # A block without spacings has shape BODY_SHAPE and no total: its two terms cancel.
    log_weight = constant + body_shape.shape[1] * BODY_SHAPE * math.log(body_rate)
    log_weight -= (body_shape * np.log(body_rate + body_total)).sum(axis=1)
    log_weight -= (TAIL_SHAPE + k) * np.log(TAIL_RATE + cumulative[k])
    weight = np.exp(log_weight - log_weight.max())
    return k, cumulative[k], weight / weight.sum()


@functools.lru_cache(maxsize=16)
def _layout(n_spacings: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, Array]:
    """Return the parts of every window's evidence that depend only on the number of spacings.

    Returns
    -------
    k : ndarray of shape (n_windows,)
        Spacings in the tail.
    edges : ndarray of shape (n_windows, n_blocks + 1)
        Indices at which the blocks of the body begin and end; trailing blocks may be empty.
    body_shape : ndarray of shape (n_windows, n_blocks)
        Shape parameters of the posteriors of the blocks' rates.
    constant : ndarray of shape (n_windows,)
        Log prior and all terms of the log evidence that do not depend on the eigenvalues, except
        those that are the same for all windows.
    """
    k = np.arange(MIN_SPACINGS, n_spacings + 1)
    m = n_spacings - k
    n_blocks = np.maximum(1, np.round(BODY_BLOCKS * np.cbrt(m)))
    share = np.minimum(np.arange(int(n_blocks.max()) + 1) / n_blocks[:, None], 1)
    edges = k[:, None] + np.floor(share * m[:, None] + 0.5).astype(np.int64)
    count = np.diff(edges, axis=1)
    log_gamma = np.array([math.lgamma(BODY_SHAPE + i) for i in range(int(count.max()) + 1)])
    tail = np.array([math.lgamma(TAIL_SHAPE + i) for i in k])
    constant = (log_gamma[count] - log_gamma[0]).sum(axis=1) + tail - np.log(k + 1.0)
    return k, edges, BODY_SHAPE + count, constant


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

    def _between(self, i: int, t: Array | float) -> Array | float:
        """Return the cumulative distribution at grid[i] + t * step, 0 <= t <= 1."""
        value, slope = self._cdf[i : i + 2], self._density[i : i + 2] * self._step
        rise = value[1] - value[0]
        cubic, square = slope[0] + slope[1] - 2 * rise, 3 * rise - 2 * slope[0] - slope[1]
        p: Array | float = value[0] + t * (slope[0] + t * (square + t * cubic))
        return p

    def cdf(self, beta: float) -> float:
        place = (math.log(beta) - self._grid[0]) / self._step
        if not 0 <= place < len(self._grid) - 1:
            return 0.0 if place < 0 else 1.0
        return min(max(float(self._between(int(place), place % 1)), 0.0), 1.0)

    def quantiles(self, p: Array) -> Array:
        i = np.clip(np.searchsorted(self._cdf, p) - 1, 0, len(self._grid) - 2)
        t = np.linspace(0, 1, 257)
        place = [np.interp(x, self._between(j, t), t) for j, x in zip(i, p, strict=True)]
        return np.exp(self._grid[i] + np.array(place) * self._step)
