"""Alpha of a layer -> its p-value under Gaussian entries, by a law of the shape.

Plain numbers in and out. Alpha, the posterior mean, is the statistic. For a Gaussian matrix of
shape (N, M), N >= M, y = log(alpha - 1) is close to skew-normal (Azzalini 1985, Scand. J. Statist.
12). Its mean, standard deviation and skewness are smooth functions of log M and r = sqrt(M / N),
because the edges of the model of the tail lie at fixed counts from the top. They are natural cubic
splines in log M times powers of r, fitted to draws over a design of shapes. From the mean,
-log tau is split off, where tau = (N^-1/2 + M^-1/2)^(1/3) / (N^1/2 + M^1/2) is the width of the
Tracy-Widom law over the edge (Johnstone 2001, Annals of Statistics 29): the scale of the spacings
at the edge, which decide. For the pooled slices of a kernel the splines have products with splines
in the log of the number of slices.

`python -m benchmarks.null_law` draws, fits and checks the law, and docs/calibration.md has the
result. It was checked down to p = 1e-4; `LEAST_P` is the least value that is returned.

Outside of the design the law is conservative. With more than `LARGEST` eigenvalues a matrix is
compared with one of that size: alpha of noise grows with the size, so p is too large. Below
`SMALLEST` eigenvalues alpha takes few values, and p comes from draws (`draws`).
"""

import functools
import json
import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specdiag.htsr.null import draws

Array = NDArray[np.float64]

LEAST_P = 1e-5
SMALLEST = 50  # eigenvalues
LARGEST = 16384
LARGEST_SKEWNESS = 0.8  # that of a skew-normal distribution is below 0.995


def p_value(alpha: float, shape: tuple[int, ...]) -> float:
    """Return the probability of an alpha as low as this one for Gaussian entries.

    Parameters
    ----------
    alpha : float
        Posterior mean.
    shape : tuple of int
        (n, m), or (out, in, *kernel).

    Returns
    -------
    float
        Between 1e-5 and 1. NaN if alpha is, or if the matrix is too small for a posterior.
    """
    N, M, slices = _sizes(shape)
    if math.isnan(alpha):
        return math.nan
    if M * slices < SMALLEST:
        return draws.rank_p(alpha, draws.small_shape(N, M, slices))
    if alpha <= 1 or math.isinf(alpha):
        return LEAST_P if alpha <= 1 else 1.0
    mean, sd, skewness = moments(shape)
    return float(np.clip(skew_normal_cdf((math.log(alpha - 1) - mean) / sd, skewness), LEAST_P, 1))


def quantiles(shape: tuple[int, ...], p: ArrayLike) -> Array:
    """Return quantiles of alpha of Gaussian matrices of a shape, at probabilities p."""
    N, M, slices = _sizes(shape)
    p = np.asarray(p, dtype=np.float64)
    if M * slices < SMALLEST:
        drawn = draws.small_shape(N, M, slices)
        return np.quantile(drawn, p) if len(drawn) else np.full(p.shape, math.nan)
    mean, sd, skewness = moments(shape)
    grid = np.linspace(-6, 6, 481)
    cdf = [skew_normal_cdf(z, skewness) for z in grid]
    return 1 + np.exp(mean + sd * np.interp(p, cdf, grid))


def moments(shape: tuple[int, ...]) -> tuple[float, float, float]:
    """Return mean, standard deviation and skewness of log(alpha - 1) of Gaussian matrices."""
    return _moments(*_sizes(shape))


@functools.lru_cache(maxsize=512)
def _moments(N: int, M: int, slices: int) -> tuple[float, float, float]:
    within = min(1.0, LARGEST / (M * slices))
    n, m = within * N, within * M
    law = coefficients()["matrix" if slices == 1 else "kernel"]
    mean, log_sd, skewness = (
        sum(float(basis(term, n, m, slices) @ term["coefficients"]) for term in law[name])
        for name in ("mean", "log_sd", "skewness")
    )
    tau = (n**-0.5 + m**-0.5) ** (1 / 3) / (n**0.5 + m**0.5)
    limit = LARGEST_SKEWNESS
    return mean - math.log(tau), math.exp(log_sd), min(max(skewness, -limit), limit)


@functools.cache
def coefficients() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the terms of the law: law.json, as `benchmarks.null_law` writes it."""
    return json.loads(files("specdiag.htsr.null").joinpath("law.json").read_text("utf-8"))


def basis(term: Mapping[str, Any], N: ArrayLike, M: ArrayLike, slices: ArrayLike) -> Array:
    """Return the basis functions of a term at shapes: (..., n_coefficients).

    A term has the power of r, `knots` of the spline in the log of the number of eigenvalues, and,
    for kernels, `slice_knots` of that in the log of the number of slices.
    """
    N, M, slices = (np.asarray(x, dtype=np.float64) for x in (N, M, slices))
    value = natural_spline(np.log(M * slices), term["knots"])
    if "slice_knots" in term:
        others = natural_spline(np.log(slices), term["slice_knots"])
        value = (value[..., :, None] * others[..., None, :]).reshape(*value.shape[:-1], -1)
    return value * np.sqrt(M / N)[..., None] ** term["power"]


def natural_spline(x: Array, knots: ArrayLike) -> Array:
    """Return the basis of natural cubic splines: 1, x, and one function for each inner knot.

    Straight beyond the outer knots. Hastie, Tibshirani & Friedman (2009), section 5.2.1.
    """
    knots, x = np.asarray(knots, dtype=np.float64), x[..., None]
    cubes = np.maximum(x - knots, 0) ** 3
    steps = (cubes[..., :-1] - cubes[..., -1:]) / (knots[-1] - knots[:-1])
    return np.concatenate([np.ones_like(x), x, steps[..., :-1] - steps[..., -1:]], axis=-1)


def skew_normal_cdf(z: float, skewness: float) -> float:
    """Return the distribution function of a skew-normal of mean 0, sd 1 and some skewness.

    It is Phi(x) - 2 T(x, a), with Owen's function T by Gauss-Legendre quadrature (Owen 1956, Ann.
    Math. Statist. 27); the error is below 1e-9.
    """
    cube = abs(skewness) ** (2 / 3)
    delta = math.sqrt(math.pi / 2 * cube / (cube + ((4 - math.pi) / 2) ** (2 / 3)))
    delta = math.copysign(delta, skewness)
    mean = delta * math.sqrt(2 / math.pi)
    x = z * math.sqrt(1 - mean**2) + mean
    slope = delta / math.sqrt(1 - delta**2)
    nodes, weights = legendre()
    t = slope * (nodes + 1) / 2
    owen = slope / 2 * float(weights @ (np.exp(-(x**2) * (1 + t**2) / 2) / (1 + t**2)))
    return math.erfc(-x / math.sqrt(2)) / 2 - owen / math.pi


@functools.cache
def legendre() -> tuple[Array, Array]:
    """Return the nodes and weights of 64 points: those of `np.polynomial.legendre`, bit by bit.

    That package takes longer to import than a small network to measure. Golub & Welsch (1969),
    Math. Comp. 23, and a step of Newton's method.
    """
    n = 64
    scale = 1 / np.sqrt(2 * np.arange(n) + 1)
    beside = np.arange(1, n) * scale[:-1] * scale[1:]
    beside_both = np.diag(beside, 1) + np.diag(beside, -1)
    nodes: Array = np.linalg.eigvalsh(beside_both).astype(np.float64, copy=False)
    top = np.arange(n + 1) == n
    slope = np.where(np.arange(n) % 2, 2 * np.arange(n) + 1, 0)  # of the polynomial of degree 64
    derivative = _series(slope, nodes)
    nodes -= _series(top, nodes) / derivative
    below = _series(top[1:], nodes)
    weights = 1 / (below / np.abs(below).max() * (derivative / np.abs(derivative).max()))
    weights = (weights + weights[::-1]) / 2
    return (nodes - nodes[::-1]) / 2, weights * (2 / weights.sum())


def _series(coefficients: NDArray[Any], x: Array) -> Array:
    """Return a sum of Legendre polynomials at x: Clenshaw (1955), Math. Comp. 9."""
    c = coefficients.astype(np.float64)
    before: Array | float = c[-2]
    last: Array | float = c[-1]
    for i in range(3, len(c) + 1):
        degree = len(c) - i + 2
        before, last = (
            c[-i] - last * ((degree - 1) / degree),
            before + last * x * ((2 * degree - 1) / degree),
        )
    total: Array = before + last * x
    return total


def _sizes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return max(shape[:2]), min(shape[:2]), math.prod(shape[2:])
