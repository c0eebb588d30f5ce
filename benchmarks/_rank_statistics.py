"""Simulation-based calibration: where the true alpha lies in its posterior.

Alpha is drawn from a prior, a spectrum given alpha, and the rank of alpha is its place u in the
cumulative distribution of the posterior. If prior, simulation and posterior belong to one model,
u is uniform, whatever the model (Cook, Gelman & Rubin 2006; Talts et al. 2018, arXiv 1804.06788).
The share of ranks up to u, minus u, is compared with a band that holds 95 % of such curves at all u
at once (Säilynoja, Bürkner & Vehtari 2022, Statistics and Computing 32).

- `model`: spectra of the model itself, whose hazard is piecewise constant. Its prior of alpha - 1
  is flat, which is no distribution, so alpha - 1 is drawn uniformly from an interval, and the
  posterior is cut to it: that is exactly the posterior under the uniform prior. One thing is left
  that is not of the model: it takes the scale of the body's rates from the spectrum.
- `bodies`: spectra of `_bodies`, with a wide prior of bodies, sizes, exponents and tail sizes.
  This is not the model's prior, so u need not be uniform; that it nearly is, is what is claimed.
"""

import logging
import math

import numpy as np
from scipy.special import gammainc
from scipy.stats import binom

from benchmarks import _bodies as bodies
from benchmarks._results import write
from specdiag.htsr.tail import change_points
from specdiag.htsr.tail.posterior import (
    MIN_WINDOW,
    OUTLIERS,
    OUTLIERS_PRIOR,
    SHORT_PRIOR,
    SHORT_TAIL,
    alpha_posterior,
)

BETA = (0.2, 5.0)  # alpha - 1
SIZES = (64, 4096)
GRID = np.arange(1, 100) / 100
_log = logging.getLogger(__name__)


def rank_statistics(full):
    """Write the share of ranks up to u, minus u, and its band, for each kind of simulation."""
    count = 2000 if full else 200
    rows = []
    for seed, (kind, draw) in enumerate(KINDS.items()):
        u = ranks(draw, np.random.default_rng([4, seed]), count)
        low, high = band(count)
        share = np.searchsorted(np.sort(u), GRID, side="right") / count
        rows += [
            {"kind": kind, "count": count, "u": x, "difference": s - x, "low": a, "high": b}
            for x, s, a, b in zip(GRID, share, low, high, strict=True)
        ]
        _log.info("ranks of %s: largest difference %.3f", kind, np.abs(share - GRID).max())
    write("rank_statistics", rows)


def ranks(draw, rng, count):
    """Return the places of alpha in its posteriors, for draws (spectrum, alpha) of a prior."""
    found = np.empty(count)
    for i in range(count):
        x, alpha, limits = draw(rng)
        found[i] = rank(alpha_posterior(x), alpha, limits)
    return found


def rank(posterior, alpha, limits=(0.0, math.inf)):
    """Return the probability of less than alpha, given that alpha - 1 lies within the limits."""

    def cdf(beta):
        return float(posterior.weights @ gammainc(posterior.shape, posterior.rate * beta))

    low, high = cdf(limits[0]), cdf(limits[1]) if limits[1] < math.inf else 1.0
    if high <= low:  # the posterior lies outside of the limits
        return low
    return (cdf(alpha - 1) - low) / (high - low)


def band(count, level=0.95, repeats=4000):
    """Return the lower and upper end, at GRID, of a simultaneous band of (share up to u) - u.

    Each point has the interval of a binomial distribution, all of one level, which is set so that
    the share of uniform samples that lie inside everywhere is `level`. Found by simulation.
    """
    rng = np.random.default_rng(0)
    steps = len(GRID) + 1
    hits = np.cumsum(rng.multinomial(count, np.full(steps, 1 / steps), repeats), axis=1)[:, :-1]
    below, above = binom.cdf(hits, count, GRID), binom.sf(hits - 1, count, GRID)
    rarest = 2 * np.minimum(below, above).min(axis=1)
    outside = np.quantile(rarest, 1 - level)
    low, high = (binom.ppf(p, count, GRID) for p in (outside / 2, 1 - outside / 2))
    return low / count - GRID, high / count - GRID


def of_model(rng):
    """Return a spectrum of the change-point model, its alpha, and the limits of alpha - 1."""
    m = round(math.exp(rng.uniform(*np.log(SIZES)))) - 1
    ends = change_points.layout(m).ends
    octaves = np.diff(np.log2(ends))
    prior = np.append(octaves, change_points.NO_BODY)
    size, outliers = 0, 0
    while size - 1 < MIN_WINDOW or rng.random() > (size / SHORT_TAIL) ** SHORT_PRIOR:
        tail = rng.choice(len(ends), p=prior / prior.sum())
        outliers = rng.choice(OUTLIERS[1:]) if rng.random() < OUTLIERS_PRIOR else 0
        size = ends[tail] - outliers + 1
    beta = rng.uniform(*BETA)
    rates = np.full(m, beta)
    rates[:outliers] = rng.exponential()
    changes = rng.random(len(octaves)) > np.exp(-rng.choice(change_points.CHANGES) * octaves)
    changes[-1:] = True
    start = tail
    for t in range(tail, len(octaves)):
        if changes[t]:
            rate = rng.exponential(1 / rng.choice(change_points.RATES))
            rates[ends[start] : ends[t + 1]] = rate
            start = t + 1
    logs = np.cumsum((rng.exponential(1 / rates) / np.arange(1, m + 1))[::-1])[::-1]
    if logs[0] > 600:  # too wide for floating point; to leave out spectra biases no posterior
        return of_model(rng)
    return np.exp(np.append(logs, 0.0)), 1 + beta, BETA


def of_bodies(rng):
    """Return a spectrum of any body, its alpha, and no limits."""
    while True:
        name = rng.choice(sorted(bodies.BODIES))
        alpha = round(rng.uniform(1.5, 5), 3)
        n = round(math.exp(rng.uniform(*np.log(SIZES))))
        fixed = bodies.BODIES[name].share
        share = fixed(alpha) if fixed else math.exp(rng.uniform(math.log(30 / n), math.log(0.75)))
        if share * n >= bodies.ENOUGH and bodies.is_possible(name, alpha, share):
            return bodies.draw(rng, name, n, alpha, share, 1)[0][0], alpha, (0.0, math.inf)


KINDS = {"model": of_model, "bodies": of_bodies}
