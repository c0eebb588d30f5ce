"""Families of random matrices with and without a power-law tail, half of them held out.

The families take turns, in the order below: the first is for tuning, the second is held out, the
third for tuning, ... `LIMITS` are those named beforehand as known failures of the method.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks._quantiles import (
    cut_pareto,
    exponential_cut,
    levels,
    lognormal,
    mixture,
    pareto,
    with_body,
)

POWER_LAW, OTHER, BORDERLINE = "power law", "other", "borderline"

LIMITS = (
    "noise + lognormal strengths",
    "noise + exponential strengths",
    "mixture of two lognormals, drawn",
)


@dataclass(frozen=True)
class Family:
    """A kind of random matrix. `draw(rng, M, N)` returns descending eigenvalues and a shape."""

    name: str
    truth: str
    half: str
    draw: Callable


def drawn(quantile):
    return lambda rng, M: quantile(1 - rng.random(M))


def fixed(quantile):
    return lambda _, M: quantile((np.arange(M) + 0.5) / M)


def spectrum(W):
    """Return the descending eigenvalues of W W' / N, W of shape (M, N)."""
    return np.maximum(np.linalg.eigvalsh(W @ W.T)[::-1] / max(W.shape), 0)


def wishart_factor(rng, M, N):
    """Return a lower triangle L so that L L' is distributed as Z Z', Z Gaussian (M, N).

    Bartlett (1933), Proc. R. Soc. Edinb. 53: it makes tall matrices as cheap as square ones.
    """
    L = np.tril(rng.standard_normal((M, M)), -1)
    L[np.arange(M), np.arange(M)] = np.sqrt(rng.chisquare(np.arange(N, N - M, -1)))
    return L / math.sqrt(N / M)


def population(variances):
    """Return draws of Gaussian rows with these variances; those of 0 take their rank away."""

    def draw(rng, M, N):
        scale = np.sqrt(variances(rng, M))
        values = spectrum(scale[:, None] * wishart_factor(rng, M, N))
        return values[: np.count_nonzero(scale)], (M, N)

    return draw


def kernel(variances):
    """Return draws of kernels: 2 x 2 positions, each a Gaussian matrix (M / 4, N / 4)."""

    def draw(rng, M, N):
        m, n = M // 4, N // 4
        parts = [population(variances)(rng, m, n)[0] for _ in range(4)]
        return np.sort(np.concatenate(parts))[::-1], (m, n, 2, 2)

    return draw


def on_longer_side(variances, shorter=None):
    """Return draws whose longer side has these variances, and the shorter one others, if given."""

    def draw(rng, M, N):
        W = rng.standard_normal((M, N)) * np.sqrt(variances(rng, N))
        if shorter:
            W *= np.sqrt(shorter(rng, M))[:, None]
        return spectrum(W), (M, N)

    return draw


def added(strengths, share):
    """Return draws of Gaussian noise plus a signal of strengths times the noise's edge.

    The strengths belong to a share of the M directions.
    """

    def draw(rng, M, N):
        W = rng.standard_normal((M, N))
        s = strengths(rng, round(share * M)) * (math.sqrt(M) + math.sqrt(N))
        W[np.arange(len(s)), np.arange(len(s))] += s
        return spectrum(W), (M, N)

    return draw


def few(count, shape, noise):
    """Return draws of noise of variance 1 plus a signal of a few directions.

    The least strength is 1.1 to 10 times the noise's edge, log-uniform.
    """

    def draw(rng, M, N):
        W = noise(rng, M, N)
        s = shape(rng, count) * strength(rng) * (math.sqrt(M) + math.sqrt(N))
        W[np.arange(count), np.arange(count)] += s
        return spectrum(W), (M, N)

    return draw


def few_large(count, shape):
    """Return draws of an identity covariance of which a few variances are at least 2.4 to 200."""
    return spiked(lambda rng, _: 2 * (shape(rng, count) * strength(rng)) ** 2, 0)


def strength(rng):
    return math.exp(rng.uniform(math.log(1.1), math.log(10)))


def squared(variances, least):
    """Return strengths whose squares are these variances times a least value."""
    return lambda rng, k: np.sqrt(least * variances(rng, k))


def decay(shape):
    """Return strengths 1 + shape(0 ... 1)."""
    return lambda _, k: 1 + shape((np.arange(k) + 0.5) / k)


def spiked(variances, share):
    """Return draws of an identity covariance with a share of its variances larger."""

    def values(rng, M):
        large = variances(rng, max(1, round(share * M)))
        return np.concatenate([large, np.ones(M - len(large))])

    return population(values)


def lost_rank(variances, share):
    """Return draws of a population of which a share is kept and the rest is 0."""

    def values(rng, M):
        kept = variances(rng, round(share * M))
        return np.concatenate([kept, np.zeros(M - len(kept))])

    return population(values)


def inverse_wishart(ratio):
    """Return draws whose covariance is the inverse of a Wishart matrix of ratio * M rows."""

    def draw(rng, M, N):
        inverse = np.linalg.inv(wishart_factor(rng, M, round(ratio * M)))
        return spectrum(inverse.T @ wishart_factor(rng, M, N)), (M, N)

    return draw


def product(count):
    """Return draws of products of Gaussian matrices, all of them square but one."""

    def draw(rng, M, N):
        W = wishart_factor(rng, M, N)
        for _ in range(count - 1):
            W = rng.standard_normal((M, M)) @ W / math.sqrt(M)
        return spectrum(W), (M, N)

    return draw


def student(freedom):
    return lambda rng, M, N: (spectrum(rng.standard_t(freedom, (M, N))), (M, N))


POWER_LAWS = {
    "population 2, drawn": population(drawn(pareto(2))),
    "population 2, fixed": population(fixed(pareto(2))),
    "population 2.5, fixed": population(fixed(pareto(2.5))),
    "population 2.5, drawn": population(drawn(pareto(2.5))),
    "population 3, drawn": population(drawn(pareto(3))),
    "population 3, fixed": population(fixed(pareto(3))),
    "population 3.5, fixed": population(fixed(pareto(3.5))),
    "population 3.5, drawn": population(drawn(pareto(3.5))),
    "population 2.5 in a half, uniform body": population(
        drawn(with_body(2.5, 0.5, lambda u: 1 - u))
    ),
    "population 3 in 2/3, body x^2": population(
        drawn(with_body(3, 2 / 3, lambda u: np.cbrt(np.maximum(1 - 3 * u, 1e-9))))
    ),
    "noise + power law 2.5, 1/4": added(squared(fixed(pareto(2.5)), 2), 1 / 4),
    "noise + power law 3, 1/3": added(squared(fixed(pareto(3)), 2), 1 / 3),
    "noise + power law 2, drawn, 1/3": added(squared(drawn(pareto(2)), 1.5), 1 / 3),
    "noise + power law 2.5, drawn, 0.4": added(squared(drawn(pareto(2.5)), 1.5), 0.4),
    "identity with power law 2.5, 1/3": spiked(fixed(lambda u: 4 * pareto(2.5)(u)), 1 / 3),
    "identity with power law 3, drawn, 0.4": spiked(drawn(lambda u: 4 * pareto(3)(u)), 0.4),
    "rank 3M/4, population 2.5": lost_rank(drawn(pareto(2.5)), 3 / 4),
    "rank M/2, population 2.2": lost_rank(fixed(pareto(2.2)), 1 / 2),
    "kernel, population 2.5, drawn": kernel(drawn(pareto(2.5))),
    "kernel, population 2, drawn": kernel(drawn(pareto(2))),
}

OTHERS = {
    "lognormal 0.5, drawn": population(drawn(lognormal(0.5))),
    "lognormal 1, drawn": population(drawn(lognormal(1))),
    "lognormal 1.5, fixed": population(fixed(lognormal(1.5))),
    "lognormal 2, fixed": population(fixed(lognormal(2))),
    "lognormal 2, drawn": population(drawn(lognormal(2))),
    "lognormal 3, drawn": population(drawn(lognormal(3))),
    "exponential, drawn": population(drawn(lambda u: -np.log(u))),
    "exponential, fixed": population(fixed(lambda u: -np.log(u))),
    "Weibull 1/3, fixed": population(fixed(lambda u: (-np.log(u)) ** 3)),
    "Weibull 1/2, drawn": population(drawn(lambda u: np.log(u) ** 2)),
    "Gamma 2, drawn": population(drawn(lambda u: stats.gamma.isf(u, 2))),
    "Gamma 1/2, drawn": population(drawn(lambda u: stats.gamma.isf(u, 0.5))),
    "half-normal, drawn": population(drawn(lambda u: stats.norm.isf(u / 2))),
    "inverse Gaussian, drawn": population(drawn(lambda u: stats.invgauss.isf(u, 1))),
    "log-uniform 3, drawn": population(drawn(lambda u: np.exp(3 * (1 - u)))),
    "log-uniform 6, fixed": population(fixed(lambda u: np.exp(6 * (1 - u)))),
    "power law 2.5 cut at 10, drawn": population(drawn(cut_pareto(2.5, 10))),
    "power law 2 cut at 10, fixed": population(fixed(cut_pareto(2, 10))),
    "linear, fixed": population(fixed(lambda u: 1 - u)),
    "triangular log, drawn": population(drawn(lambda u: np.exp(5 * (1 - np.sqrt(u))))),
    "inverse Wishart 1.5": inverse_wishart(1.5),
    "inverse Wishart 2": inverse_wishart(2),
    "inverse Wishart 4": inverse_wishart(4),
    "product of 2": product(2),
    "product of 3": product(3),
    "product of 4": product(4),
    "two levels": population(fixed(levels(10, 1))),
    "four levels": population(fixed(levels(64, 16, 4, 1))),
    "ten equal spikes": spiked(lambda *_: np.full(10, 12.0), 0),
    "uniform spikes, M/10": spiked(drawn(lambda u: 4 + 16 * (1 - u)), 1 / 10),
    "noise + exponential decay, M/4": added(decay(lambda x: 5 * np.exp(-4 * x)), 1 / 4),
    "noise + linear decay, M/5": added(decay(lambda x: 3 * (1 - x)), 1 / 5),
    "noise + square-root decay, M/3": added(decay(lambda x: 9 * np.exp(-5 * np.sqrt(x))), 1 / 3),
    "noise + equal strengths, M/8": added(decay(lambda x: 0 * x + 1), 1 / 8),
    "noise + uniform strengths, M/4": added(drawn(lambda u: 1 + 3 * u), 1 / 4),
    "noise + half-normal strengths, M/4": added(
        drawn(lambda u: 1 + 2 * stats.norm.isf(u / 2)), 1 / 4
    ),
    LIMITS[0]: added(drawn(lambda u: 1.5 * np.exp(0.7 * stats.norm.isf(u / 2))), 1 / 4),
    LIMITS[1]: added(drawn(lambda u: 1 - 2 * np.log(u)), 1 / 4),
    "lognormal 1 on the longer side": on_longer_side(drawn(lognormal(1))),
    "lognormal 1 on both sides": on_longer_side(drawn(lognormal(1)), drawn(lognormal(1))),
    "exponential on the longer side": on_longer_side(drawn(lambda u: -np.log(u))),
    "exponential on both sides": on_longer_side(
        drawn(lambda u: -np.log(u)), drawn(lambda u: -np.log(u))
    ),
    "rank M/2, lognormal 1": lost_rank(drawn(lognormal(1)), 1 / 2),
    "rank M/2, exponential": lost_rank(fixed(lambda u: -np.log(u)), 1 / 2),
    "kernel, lognormal 1": kernel(drawn(lognormal(1))),
    "kernel, exponential": kernel(drawn(lambda u: -np.log(u))),
    "kernel, log-uniform 4": kernel(drawn(lambda u: np.exp(4 * (1 - u)))),
    LIMITS[2]: population(drawn(mixture(0.2, 1.5, 0.5))),
}

SHAPES = {
    "equal": lambda _, k: np.ones(k),
    "geometric": lambda _, k: 1.3 ** np.arange(k),
    "heavy-tailed": lambda rng, k: (1 - rng.random(k)) ** -0.5,
}
SPIKES = {
    "one spike": (1, SHAPES["equal"]),
    **{
        f"{name} {word} spikes": (count, shape)
        for name, count in (("two", 2), ("three", 3), ("six", 6))
        for word, shape in SHAPES.items()
    },
}
IDENTITY = {f"identity, {name}": few_large(*spikes) for name, spikes in SPIKES.items()}
NOISES = {
    "Gaussian": lambda rng, M, N: rng.standard_normal((M, N)),
    "Student-5": lambda rng, M, N: rng.standard_t(5, (M, N)) * math.sqrt(3 / 5),
}
IN_NOISE = {
    noise: {f"{noise} noise, {name}": few(*spikes, of) for name, spikes in SPIKES.items()}
    for noise, of in NOISES.items()
}
A_FEW = dict(  # in an order that gives both halves every number and shape of spikes
    [
        *IN_NOISE["Gaussian"].items(),
        *list(IDENTITY.items())[:5],
        *IN_NOISE["Student-5"].items(),
        *list(IDENTITY.items())[5:],
    ]
)
OTHERS |= A_FEW

NEITHER = {
    "power law 2 cut exponentially at 20, drawn": population(drawn(exponential_cut(2, 20))),
    "power law 3 cut exponentially at 5, drawn": population(drawn(exponential_cut(3, 5))),
    "entries of Student's t, 2 degrees of freedom": student(2),
    "entries of Student's t, 3 degrees of freedom": student(3),
    "squared Student's t, 3 degrees of freedom, drawn": population(
        drawn(lambda u: stats.t.isf(u / 2, 3) ** 2)
    ),
}


def _families(truth, draws):
    halves = ("tuning", "held out")
    return [
        Family(name, truth, halves[i % 2], draw) for i, (name, draw) in enumerate(draws.items())
    ]


FAMILIES = [
    *_families(POWER_LAW, POWER_LAWS),
    *_families(OTHER, OTHERS),
    *_families(BORDERLINE, NEITHER),
]
NOISE = Family("Gaussian noise", OTHER, "the null's", population(lambda _, M: np.ones(M)))
