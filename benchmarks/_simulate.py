"""Simulated spectra and matrices with a known exponent, or without one."""

import functools

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from specdiag.htsr.null.draws import gaussian_spectrum

SIZES = (128, 256, 512, 1024)
GOF_BODIES = ("none", "uniform", "exponential-csn", "bulk", "lognormal")
STUDENT = (1.5, 2.0, 2.5, 3.0, 4.0)  # degrees of freedom
POPULATION = (2.0, 2.5, 3.0, 4.0)  # exponents
NO_TAIL = ("gaussian", "uniform", "orthogonal")
HEAVY = (*(f"student-{v:g}" for v in STUDENT), *(f"population-{a:g}" for a in POPULATION))
OTHER = ("lognormal-columns", "spiked")  # neither random nor a power law


def natural_share(alpha):
    """Return the share above xmin of the density of Clauset et al. (2009), equation 3.10.

    It is exp(-alpha (x / xmin - 1)) below xmin, a power law above, and has a continuous slope.
    """
    tail, body = 1 / (alpha - 1), np.expm1(alpha) / alpha
    return tail / (tail + body)


def draw_spectra(rng, n, alpha, body, share, count):
    """Return independent draws: a power law above xmin = 1 and a body below it.

    Returns
    -------
    spectra : ndarray of shape (count, n)
        Each row descending.
    n_tail : ndarray of shape (count,)
    """
    logs = rng.standard_exponential((count, n)) / (alpha - 1)
    n_tail = np.full(count, n)
    if body != "none":
        in_tail = rng.random((count, n)) < share
        logs = np.where(in_tail, logs, _log_body(rng, body, alpha, share, (count, n)))
        n_tail = in_tail.sum(axis=1)
    return np.exp(-np.sort(-logs, axis=1)), n_tail


def _log_body(rng, body, alpha, share, size):
    """Return logarithms of draws below xmin = 1."""
    u = rng.random(size)
    match body:
        case "uniform":
            return np.log(0.1 + 0.9 * u)
        case "exponential-csn":  # value and slope continuous at xmin
            return np.log(np.maximum(-np.log1p(u * np.expm1(-alpha)) / alpha, 1e-300))
        case "bulk":  # Marchenko-Pastur of aspect ratio 2, upper edge at 0.4 xmin
            share_below, x = _marchenko_pastur()
            return np.log(0.4 * np.interp(u, share_below, x))
        case "lognormal":  # value and slope of the density continuous at xmin
            z = _lognormal_cut(share)
            sigma = z / (alpha - 1)
            return sigma * (norm.ppf(u * norm.cdf(z)) - z)
    raise ValueError(f"unknown body {body!r}")


@functools.cache
def _lognormal_cut(share):
    """Return where the standard normal is cut so that the junction is smooth with `share` above."""
    target = (1 - share) / share
    root = np.sqrt(2 * np.pi)
    return brentq(lambda z: z * root * norm.cdf(z) * np.exp(z * z / 2) - target, 1e-6, 8)


@functools.cache
def _marchenko_pastur(ratio=0.5):
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    x = np.linspace(low, high, 20_001)
    density = np.sqrt(np.maximum((high - x) * (x - low), 0)) / x
    share_below = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return share_below / share_below[-1], x / high


def gof_cases(n, count):
    """Yield (case, alpha, draw): alpha is NaN for those that are no power law."""
    for alpha in (2.0, 3.0):
        for body in GOF_BODIES:
            share = natural_share(alpha) if body == "exponential-csn" else 1 / 4

            def draw(rng, alpha=alpha, body=body, share=share):
                return draw_spectra(rng, n, alpha, body, share, count)[0]

            yield body, alpha, draw
    yield "lognormal tail", np.nan, lambda rng: np.exp(rng.standard_normal((count, n)))
    yield "exponential tail", np.nan, lambda rng: rng.standard_exponential((count, n))
    for aspect in (1, 4):
        name = f"gaussian matrix {aspect}"
        yield name, np.nan, lambda rng, N=aspect * n: gaussian_spectra(rng, N, n, count)


def gaussian_spectra(rng, N, M, count):
    return [gaussian_spectrum(rng, N, M) for _ in range(count)]


def draw_matrix(rng, kind, N, M):
    """Return a float32 matrix of shape (N, M), N >= M.

    student-v: independent entries of Student's t with v degrees of freedom (exponent 1 + v / 2).
    population-a: Gaussian rows whose covariance has eigenvalues of exponent a, drawn anew.
    """
    name, _, parameter = kind.rpartition("-")
    match name or kind:
        case "student":
            W = rng.standard_t(float(parameter), (N, M))
        case "population":
            W = _colored(rng, N, rng.random(M) ** (-1 / (float(parameter) - 1)))
        case "gaussian":
            W = rng.standard_normal((N, M))
        case "uniform":
            W = rng.random((N, M)) - 0.5
        case "orthogonal":
            W = np.linalg.qr(rng.standard_normal((N, M)))[0]
        case "lognormal":  # lognormal-columns
            W = _colored(rng, N, np.exp(rng.standard_normal(M)))
        case "spiked":
            W = _colored(rng, N, np.concatenate([5 + 20 * rng.random(5), np.ones(M - 5)]))
        case _:
            raise ValueError(f"unknown matrix {kind!r}")
    return W.astype(np.float32)


def _colored(rng, N, variance):
    return rng.standard_normal((N, len(variance))) * np.sqrt(variance)
