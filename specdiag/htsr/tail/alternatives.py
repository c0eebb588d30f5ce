"""Tail of a spectrum -> how much better a power law fits it than each of four other distributions.

Plain arrays in and out. With y = log(x / xmin) the power law is an exponential distribution of y,
and the lognormal and the power law with exponential cut-off are its extensions by one more
statistic, y^2 or e^y - 1: exponential families of two parameters.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from specdiag.htsr.tail.power_law import TIE, Array, checked_eigenvalues

ALTERNATIVES = ("lognormal", "exponential", "truncated_power_law", "stretched_exponential")

EVALUATIONS = 50  # of a likelihood, at most; most fits of two parameters need about 8
SHAPES = 32  # of the stretched exponentials that are tried before the search for the best
ROUNDING = 1e-13  # relative, of a log-likelihood
CLOSE = 1e-9  # relative, of a shape: the likelihood differs by the square of that
NEGLIGIBLE = 40.0  # below the largest log-density

Moments = Callable[[Array], tuple[float, Array, Array]]
Profile = Callable[[Array], tuple[Array, Array, Array]]

_REACH = np.geomspace(1e-9, 1e6, 192)  # in means: where the density may become negligible
_PANELS = 8


@functools.cache
def _quadrature() -> tuple[Array, Array]:
    """Return nodes and weights on 0 ... 1: Gauss-Legendre of 24 points in each of the panels."""
    x, weights = np.polynomial.legendre.leggauss(24)  # imported only here: it takes long
    nodes = ((np.arange(_PANELS)[:, None] + (x + 1) / 2) / _PANELS).ravel()
    return nodes, np.tile(weights / 2 / _PANELS, _PANELS)


class Curve(NamedTuple):
    """A convex function of y >= 0, and where its slope has a given positive value."""

    value: Callable[[Array], Array]
    with_slope: Callable[[float], float]


SQUARE = Curve(np.square, lambda slope: slope / 2)  # of the lognormal, cut at xmin
GROWTH = Curve(np.expm1, math.log)  # e^y - 1, of the power law with exponential cut-off


def likelihood_ratios(tail: ArrayLike, xmin: float) -> dict[str, tuple[float, float]]:
    """Return how much better a power law fits than each alternative, all fitted above xmin.

    Parameters
    ----------
    tail : array_like of shape (n,)
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
        "lognormal": _curved(y, SQUARE),
        "exponential": -math.log(growth.mean()) + y - growth / growth.mean(),
        "truncated_power_law": _curved(y, GROWTH),
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


def _curved(y: Array, curve: Curve) -> Array:
    """Return log-densities of y under its best exp(-a y - b curve(y)) / Z on y >= 0, with b >= 0.

    If the likelihood is largest at b <= 0, the power law itself is the best of the family.
    """
    mean, moments = y.mean(), exponential_family(y, curve)
    # b > 0 lowers the mean of curve(y); that of the data is not below that of the power law.
    if moments(np.array([1.0, 1e-9]))[1][1] <= 1:
        return -math.log(mean) - y / mean
    theta = maximise(moments)
    bent = curve.value(y)
    return -(theta[0] * y / mean + theta[1] * bent / bent.mean()) - moments(theta)[0]


def exponential_family(y: Array, curve: Curve) -> Moments:
    """Return the moments of the family exp(-theta . (y / mean, curve(y) / its mean)) / Z, y >= 0.

    Given theta = (a, b) with b > 0, they are log Z, the means of the two statistics, and their
    covariance. The power law has theta = (1, 0), and at the maximum of the likelihood both means
    are 1. The density is log-concave, so all of it lies around its mode, up to where it becomes
    negligible; the Gauss-Legendre rule integrates each side of the mode in panels.
    """
    mean, level = float(y.mean()), float(curve.value(y).mean())

    def statistics(x: Array) -> Array:
        return np.stack([x / mean, curve.value(x) / level])

    @np.errstate(over="ignore")
    def moments(theta: Array) -> tuple[float, Array, Array]:
        slope = -theta[0] / mean * level / theta[1]  # of the curve at the mode
        mode = max(curve.with_slope(slope), 0.0) if slope > 0 else 0.0
        reach = mean * _REACH
        sides = np.concatenate([[mode], mode + reach, np.maximum(mode - reach, 0)])
        exponent = -(theta @ statistics(sides))
        top = exponent[0]
        right, left = (top - exponent[1:] < NEGLIGIBLE).reshape(2, -1).sum(axis=1)
        widths = [reach[min(right, len(reach) - 1)]]
        if mode:
            widths.append(-min(mode, reach[min(left, len(reach) - 1)]))
        nodes, weights = _quadrature()
        x = np.concatenate([mode + width * nodes for width in widths])
        known = statistics(x)
        weight = np.exp(-(theta @ known) - top)
        weight *= np.concatenate([abs(width) * weights for width in widths])
        total = weight.sum()
        weight /= total
        first = known @ weight
        known -= first[:, None]
        return float(top) + math.log(total), first, (known * weight) @ known.T

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
        if step[1] < 0:  # b stays positive
            step *= min(1.0, -0.9 * theta[1] / step[1])
        trial = theta + shrink * step
        at_trial = moments(trial)
        if -trial.sum() - at_trial[0] >= height:
            theta, (value, first, covariance) = trial, at_trial
            shrink = 1.0
        else:
            shrink /= 2
    return theta


def _stretched_exponential(y: Array) -> Array:
    """Return log-densities of y under its best Weibull tail, c b exp(c y - b (exp(c y) - 1)).

    As the shape c goes to 0, the density becomes the power law.
    """
    mean = y.mean()
    c = likeliest_shape(weibull_profile(y), 1e-4 / mean, min(50 / mean, 300 / y.max()))
    if c == 0:
        return -math.log(mean) - y / mean
    growth = np.expm1(c * y)
    b = 1 / growth.mean()
    return math.log(c * b) + c * y - b * growth


def weibull_profile(y: Array) -> Profile:
    """Return the mean log-likelihood of shapes c, its slope and its curvature, less a constant.

    The best b for a shape c is 1 / mean(exp(c y) - 1).
    """
    powers = np.stack([np.ones(len(y)), y, y * y], axis=1) / len(y)
    mean, square = y.mean(), y @ y / len(y)

    def profile(c: Array) -> tuple[Array, Array, Array]:
        growth, first, second = (np.expm1(c[:, None] * y) @ powers).T
        first, second = (first + mean) / growth, (second + square) / growth
        value = np.log(c / growth) + c * mean
        return value, 1 / c + mean - first, first**2 - second - 1 / c**2

    return profile


def likeliest_shape(profile: Profile, low: float, high: float) -> float:
    """Return the shape of the largest likelihood, or 0 if that is the least of the shapes tried.

    Newton's method between the neighbours of the best of `SHAPES` shapes, with bisection where a
    step leaves them.
    """
    shapes = np.geomspace(low, high, SHAPES)
    best = int(profile(shapes)[0].argmax())
    if best == 0:
        return 0.0
    low, c, high = shapes[best - 1], shapes[best], shapes[min(best + 1, SHAPES - 1)]
    for _ in range(EVALUATIONS - SHAPES):
        _, (slope,), (curvature,) = profile(np.array([c]))
        low, high = (c, high) if slope > 0 else (low, c)
        step = -slope / curvature if curvature else math.inf
        if abs(step) <= CLOSE * c:
            break
        c = c + step if low < c + step < high else math.sqrt(low * high)
    return float(c)
