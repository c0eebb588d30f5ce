"""Alpha by the rules of others, for comparison: those of WeightWatcher and of the published card.

Plain arrays in and out. Both are written from their formulas and keep their weaknesses: the floor
of WeightWatcher is absolute, so its alpha changes with the scale of the weights; the card requires
a minimum tail, which makes alpha too low. docs/calibration.md compares how reliable they are.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdiag.compute.eigenvalues import eigenvalues_of_gram
from specdiag.compute.gram import half_gram
from specdiag.htsr.tail.posterior import NO_POSTERIOR, Posterior, mixture_posterior
from specdiag.htsr.tail.power_law import NO_FIT, TIE, Array, TailFit, fit_alpha

WEIGHTWATCHER_FLOOR = 1e-5  # absolute, on eigenvalues of W'W
WWJ_FLOOR = 1e-9  # of the largest eigenvalue
WWJ_MIN_TAIL = 50
WWJ_PRIOR = 1e-3  # shape and rate of the Gamma prior of alpha - 1


def weightwatcher(squared_singular_values: Array) -> tuple[TailFit, Posterior]:
    """Return the fit of weightwatcher 0.7.7, from the eigenvalues of W'W (not divided by N).

    Eigenvalues above 1e-5 are fitted as in `fit_alpha`.
    """
    fit = fit_alpha(squared_singular_values[squared_singular_values > WEIGHTWATCHER_FLOOR])
    return fit, estimate(fit)


def estimate(fit: TailFit) -> Posterior:
    """Return the estimate of a method without a posterior in the place of one.

    The mean is alpha, the standard deviation sigma, the interval alpha +- 1.96 sigma, the tail that
    of the fit, and the other fields are NaN.
    """
    reach = 1.96 * fit.sigma
    return Posterior(
        mean=fit.alpha,
        sd=fit.sigma,
        interval=(fit.alpha - reach, fit.alpha + reach),
        n_tail=float(fit.n_tail) if fit.n_tail else math.nan,
        xmin=fit.xmin,
    )


def fit_weightwatcher(shape: tuple[int, ...], spectrum: Array) -> dict[str, Any]:
    """Return status, tail and posterior of a weight by `weightwatcher`, from its ESD."""
    scale = float(max(shape[:2]))
    if len(shape) > 2:
        scale /= 2  # weightwatcher multiplies convolutions by sqrt(1/2)
    tail, posterior = weightwatcher(spectrum * scale)
    if not tail.n_tail:
        reason = "weightwatcher finds no fit, and reports alpha -1"
        return {"status": "degenerate", "reason": reason}
    tail = tail.scaled(1 / scale)
    return {"status": "fit", "tail": tail, "posterior": replace(posterior, xmin=tail.xmin)}


def wwj(W: NDArray[np.generic]) -> tuple[TailFit, Posterior, int]:
    """Return the frequentist fit, the averaged posterior and the rank by the published rules.

    The eigenvalues are those of W'W / max(n, m) in float32, above 1e-9 of the largest. Float32
    resolves about 1e-7 of the largest: smaller ones are rounding, and so are the rank, and fits
    whose tails include them. Every xmin with at least 50 eigenvalues in its tail is allowed. The
    frequentist fit has the least Kolmogorov-Smirnov distance, with the empirical distribution at
    its right limit, and alpha = 1 + n / S, where S is the sum of log(x / xmin). The Bayesian fit
    gives each xmin the log-weight

        -sum(log x) + lgamma(a + n) - (a + n) log(b + S) - (n log r - r sum(x)),

    with sums over the tail, a = b = 0.001 and r = 1 / mean of all eigenvalues, and averages
    Gamma(a + n, b + S) for alpha - 1. `rope` is that of the frequentist xmin alone, as in the
    published numbers.

    Returns
    -------
    TailFit, Posterior, int
        `NO_FIT` and `NO_POSTERIOR` if the rank is below 50 or all eigenvalues are equal.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        A = np.asarray(W, dtype=np.float32)
    gram = half_gram(A, np.float32)
    if not np.isfinite(np.diagonal(gram)).all():  # no other value is larger
        raise ValueError("values or their squares leave the range of float32, which the rules use")
    gram /= np.float32(max(A.shape))
    values = eigenvalues_of_gram(gram).astype(np.float64)
    x = values[values > WWJ_FLOOR * values[-1]]
    if len(x) < WWJ_MIN_TAIL or math.log(x[-1] / x[0]) <= TIE:
        return NO_FIT, NO_POSTERIOR, len(x)
    logs = np.log(x)
    n = np.arange(len(x), WWJ_MIN_TAIL - 1, -1)
    start = len(x) - n
    excess = np.cumsum(logs[::-1])[::-1][start] - n * logs[start]
    shape, rate = WWJ_PRIOR + n.astype(np.float64), WWJ_PRIOR + excess
    base = 1 / x.mean()
    score = -np.cumsum(logs[::-1])[::-1][start] - shape * np.log(rate)
    score += [math.lgamma(a) for a in shape]
    score -= n * math.log(base) - base * np.cumsum(x[::-1])[::-1][start]
    weight = np.exp(score - score.max())
    likely = weight > 1e-12
    fit = _right_limit_fit(x, n, excess)
    best = [len(x) - fit.n_tail]
    at_best = mixture_posterior(shape[best], rate[best], np.ones(1))
    weight = weight[likely] / weight[likely].sum()
    averaged = mixture_posterior(shape[likely], rate[likely], weight)
    n_tail = float(weight @ n[likely])
    xmin = float(x[start[likely][np.searchsorted(np.cumsum(weight), 0.5)]])
    return fit, replace(averaged, rope=at_best.rope, n_tail=n_tail, xmin=xmin), len(x)


def fit_wwj(W: NDArray[np.generic]) -> dict[str, Any]:
    """Return status, tail, posterior and rank of a weight by `wwj`."""
    if W.ndim > 2:
        return {"status": "skipped", "reason": "the published rules know matrices only"}
    tail, posterior, rank = wwj(W)
    if not tail.n_tail:
        # The number itself depends on rounding: float32 resolves 1e-7 of the largest.
        needed = WWJ_MIN_TAIL
        reason = f"fewer than {needed} eigenvalues above 1e-9 of the largest, or all equal"
        return {"status": "degenerate", "reason": reason, "rank": rank}
    return {"status": "fit", "tail": tail, "posterior": posterior, "rank": rank}


def _right_limit_fit(x: Array, n: NDArray[np.int64], excess: Array) -> TailFit:
    with np.errstate(divide="ignore"):  # a tail of equal eigenvalues has an infinite exponent
        alpha = 1 + n / excess
    distance = np.empty(len(n))
    for i, size in enumerate(n):
        tail = x[len(x) - size :]
        fitted = 1 - (tail / tail[0]) ** (1 - alpha[i])
        distance[i] = np.abs(fitted - np.arange(1, size + 1) / size).max()
    i = int(distance.argmin())
    return TailFit(
        alpha=float(alpha[i]),
        xmin=float(x[len(x) - n[i]]),
        ks_distance=float(distance[i]),
        n_tail=int(n[i]),
    )
