"""Spectra with a known exponent: a power law above xmin = 1, and any of many bodies below it.

A body is a density of y = log x < 0, relative to that of the tail at the junction,
(tail share) (alpha - 1); the tail itself is exp(-(alpha - 1) y). Where it joins with a jump, its
integral is made to fit the share below xmin. Where it joins with equal value, slope or curvature,
one parameter of its shape does that: the depth of a cut, or a curvature. A body without any value
of that parameter cannot have that share and is left out.

The bodies are divided once, before any estimator was run on them: those of TUNING may be used to
choose constants of an estimator, those of HELD_OUT only to judge it.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
ALPHAS = (1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
ENOUGH = 30  # values in the tail, expected
POINTS = 20_001  # of the table that a body is drawn from
DEEPEST = 60.0  # the smallest value is exp(-DEEPEST)


@dataclass(frozen=True, kw_only=True)
class Body:
    """A density of y = log x below the tail.

    Attributes
    ----------
    words : str
        Its name in a table.
    junction : str
        What of the density is continuous at xmin: 'jump' (nothing), 'value', 'slope' (and the
        value) or 'curvature' (all three).
    shape : callable
        shape(y, alpha, p) is the log density; 0 at y = 0 unless the junction is a jump.
    range : tuple of float
        Of the parameter p; it is not used where the junction is a jump.
    cut : bool
        The body ends at y = -p.
    share : callable
        share(alpha) is the share of the tail, where the shape does not leave it free.
    """

    words: str
    junction: str
    shape: Callable
    range: tuple[float, float] = (1e-6, 1e6)
    cut: bool = False
    share: Callable | None = None


def jump(words, density):
    """Return a body of the given density of x on (0, 1); its integral need not be 1."""

    def shape(y, _alpha, _p):
        with np.errstate(divide="ignore"):
            return np.log(density(np.exp(y))) + y

    return Body(words=words, junction="jump", shape=shape)


def power(words, exponent):
    """Return a body with the density x^-exponent(alpha), joined by value and cut where it must."""
    return Body(
        words=words,
        junction="value",
        shape=lambda y, alpha, _: -(exponent(alpha) - 1) * y,
        range=(1e-3, DEEPEST),
        cut=True,
    )


def bend(words, junction, order, excess=0.0):
    """Return a body whose log density leaves the tail's by excess y - p |y|^order."""

    def shape(y, alpha, p):
        return -(alpha - 1 + excess) * y - p * np.abs(y) ** order

    return Body(words=words, junction=junction, shape=shape)


def marchenko_pastur(x, ratio, top):
    """Return the density of a Marchenko-Pastur law of aspect ratio M/N whose upper edge is top."""
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    x = x * high / top
    return np.sqrt(np.maximum((high - x) * (x - low), 0)) / x


def normal(x, mean, sd):
    return np.exp(-0.5 * ((x - mean) / sd) ** 2) / sd


def lognormal(x, mean, sd):
    return normal(np.log(x), mean, sd) / x


def inside(x, low, high):
    """Return the uniform density on (low, high)."""
    return ((x > low) & (x <= high)) / (high - low)


def clusters(x):
    return sum(normal(x, level, 0.01 * level) for level in (0.1, 0.2, 0.35, 0.5, 0.7))


def two_powers(y, alpha, p):
    """Exponent alpha - 0.6 down to y = -p, then a density that rises as x^0.5."""
    return np.where(y > -p, -(alpha - 1.6) * y, (alpha - 1.6) * p + 1.5 * (y + p))


def two_steps(y, alpha, _p):
    """Exponent alpha - 0.5 down to x = 1/3, then alpha - 1.2 down to the cut."""
    knee = -math.log(3)
    return np.where(
        y > knee, -(alpha - 1.5) * y, -(alpha - 1.5) * knee - (alpha - 2.2) * (y - knee)
    )


def ramp(y, alpha, p):
    """Local exponent that falls linearly from alpha to -2 over a depth p, then stays."""
    d = np.minimum(-y, p)
    return (alpha - 1) * -y - (alpha + 2) * (d**2 / (2 * p) + (-y - d))


def smooth_step(y, alpha, p):
    """Local exponent that falls from alpha to -2, as a cosine, over a depth p, then stays."""
    d = np.minimum(-y, p)
    half = (d - p / math.pi * np.sin(math.pi * d / p)) / 2
    return (alpha - 1) * -y - (alpha + 2) * (half + (-y - d))


def clauset_share(alpha):
    """Return the share above xmin of the density of Clauset et al. (2009), equation 3.10."""
    tail, body = 1 / (alpha - 1), math.expm1(alpha) / alpha
    return tail / (tail + body)


BODIES = {
    # The density jumps at xmin.
    "uniform": jump("uniform", lambda x: 1.0 + 0 * x),
    "rising": jump("rising as x²", lambda x: x**2),
    "falling": jump("falling as x^-0.8", lambda x: x**-0.8),
    "log-uniform": jump("log-uniform over two decades", lambda x: inside(x, 0.01, 1) / x),
    "gamma": jump("Gamma(3), cut", lambda x: x**2 * np.exp(-5 * x)),
    "weibull": jump("Weibull(0.7), cut", lambda x: x**-0.3 * np.exp(-((x / 0.3) ** 0.7))),
    "beta": jump("Beta(2, 5), zero at xmin", lambda x: x * (1 - x) ** 4),
    "triangle": jump("triangle, zero at xmin", lambda x: np.minimum(x, 1 - x)),
    "lognormal-cut": jump("lognormal, cut", lambda x: lognormal(x, -0.8, 0.9)),
    "half-lognormal": jump("lognormal, cut at its mode", lambda x: lognormal(x, 0.0, 0.5)),
    "mp-1": jump("Marchenko-Pastur, 1:1, to xmin", lambda x: marchenko_pastur(x, 1.0, 1.0)),
    "mp-2": jump("Marchenko-Pastur, 2:1, to 0.7", lambda x: marchenko_pastur(x, 0.5, 0.7)),
    "mp-4": jump("Marchenko-Pastur, 4:1, to xmin", lambda x: marchenko_pastur(x, 0.25, 1.0)),
    "mp-16": jump("Marchenko-Pastur, 16:1, to 0.9", lambda x: marchenko_pastur(x, 1 / 16, 0.9)),
    "gap-power": jump("x^-1.5, then a gap", lambda x: inside(x, 0.02, 0.5) * x**-1.5),
    "gap-bulk": jump("lognormal far below", lambda x: lognormal(x, -2.0, 0.3)),
    "clusters": jump("five narrow clusters", clusters),
    "two-humps": jump("two humps", lambda x: normal(x, 0.2, 0.04) + normal(x, 0.75, 0.06)),
    "shoulder": jump(
        "shoulder, gap, uniform", lambda x: 0.12 * inside(x, 0.85, 1) + 0.88 * inside(x, 0, 0.5)
    ),
    "dip": jump(
        "dip before the tail", lambda x: 0.04 * inside(x, 0.6, 1) + 0.96 * inside(x, 0, 0.6)
    ),
    "mixture": jump(
        "bulk and exponential",
        lambda x: marchenko_pastur(x, 0.5, 0.4) / 4 + 4 * np.exp(-4 * x),
    ),
    # The value of the density is continuous.
    "power-0.5": power("power law, exponent 0.5 lower", lambda a: a - 0.5),
    "power-0.6": power("power law, exponent 0.6 lower", lambda a: a - 0.6),
    "power-0.9": power("power law, exponent 0.9 lower", lambda a: a - 0.9),
    "power-1.2": power("power law, exponent 1.2 lower", lambda a: a - 1.2),
    "power-1.8": power("power law, exponent 1.8 lower", lambda a: a - 1.8),
    "power-2.5": power("power law, exponent 2.5 lower", lambda a: a - 2.5),
    "steep-1": power("power law, exponent 1 higher", lambda a: a + 1),
    "steep-3": power("power law, exponent 3 higher", lambda a: a + 3),
    "exponential": Body(
        words="exponential",
        junction="value",
        shape=lambda y, _, p: -p * np.expm1(y) + y,
        range=(-60.0, 60.0),
    ),
    "kink-bend": bend("kink, then log-quadratic", "value", 2, excess=-0.4),
    "steep-bend": bend("steeper, then log-quadratic", "value", 2, excess=1.5),
    "three-powers": Body(
        words="three powers: lower, then rising",
        junction="value",
        shape=two_powers,
        range=(1e-3, DEEPEST),
    ),
    "two-steps": Body(
        words="three powers: 0.5, then 1.2 lower",
        junction="value",
        shape=two_steps,
        range=(1e-3, DEEPEST),
        cut=True,
    ),
    # Value and slope are continuous, or the curvature as well.
    "clauset": Body(
        words="exponential of Clauset et al.",
        junction="slope",
        shape=lambda y, alpha, _: -alpha * np.expm1(y) + y,
        share=clauset_share,
    ),
    "lognormal": bend("lognormal", "slope", 2),
    "ramp": Body(
        words="exponent falls linearly to -2", junction="slope", shape=ramp, range=(1e-3, DEEPEST)
    ),
    "smooth-step": Body(
        words="exponent falls smoothly to -2",
        junction="curvature",
        shape=smooth_step,
        range=(1e-3, DEEPEST),
    ),
    "cubic": bend("log-cubic", "curvature", 3),
    "quartic": bend("log-quartic", "curvature", 4),
}

# Every kind of junction and body is in both halves.
TUNING = (
    *("uniform", "falling", "gamma", "beta", "lognormal-cut", "mp-1", "mp-16", "gap-power"),
    *("clusters", "shoulder", "power-0.6", "power-1.2", "power-2.5", "steep-1", "exponential"),
    *("kink-bend", "three-powers", "lognormal", "cubic", "smooth-step"),
)
HELD_OUT = (
    *("rising", "log-uniform", "weibull", "triangle", "half-lognormal", "mp-2", "mp-4"),
    *("gap-bulk", "two-humps", "dip", "mixture", "power-0.5", "power-0.9", "power-1.8"),
    *("steep-3", "steep-bend", "two-steps", "clauset", "ramp", "quartic"),
)
HALVES = {"tuning": TUNING, "held out": HELD_OUT}


@functools.lru_cache(maxsize=64)
def quantiles(name, alpha, share):
    """Return shares of the body from 0 to 1 and the y = log x below which they lie."""
    body = BODIES[name]
    y, density = _density(body, alpha, _parameter(name, alpha, share))
    below = _cumulative(y, density)
    return below / below[-1], y


def is_possible(name, alpha, share):
    """Return whether a body can have that share below xmin."""
    return name == "none" or _parameter(name, alpha, share) is not None


@functools.cache
def _parameter(name, alpha, share):
    """Return the parameter that gives the body its share, NaN if it has none, None if none does."""
    body = BODIES[name]
    if body.junction == "jump" or body.share:
        return math.nan
    target = (1 - share) / share / (alpha - 1)
    logarithmic = body.range[0] > 0

    def excess(place):
        p = math.exp(place) if logarithmic else place
        return math.log(_cumulative(*_density(body, alpha, p))[-1] / target)

    low, high = np.log(body.range) if logarithmic else body.range
    if excess(low) * excess(high) > 0:
        return None
    place = brentq(excess, low, high, xtol=1e-10)
    return math.exp(place) if logarithmic else place


def _density(body, alpha, p):
    """Return ascending y and the density there; the points are densest at the junction."""
    depth = p if body.cut else DEEPEST
    y = -depth * np.linspace(1, 0, POINTS) ** 3
    return y, np.exp(np.minimum(body.shape(y, alpha, p), 500))


def _cumulative(y, density):
    return np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(y))])


def draw(rng, name, n, alpha, share, count):
    """Return independent draws of shape (count, n), each row descending, and their tail sizes.

    The name 'none' is a power law throughout.
    """
    logs = rng.standard_exponential((count, n)) / (alpha - 1)
    n_tail = np.full(count, n)
    if name != "none":
        in_tail = rng.random((count, n)) < share
        below, y = quantiles(name, alpha, share)
        logs = np.where(in_tail, logs, np.interp(rng.random((count, n)), below, y))
        n_tail = in_tail.sum(axis=1)
    return np.exp(-np.sort(-logs, axis=1)), n_tail


def cells(names, count, *, sizes=SIZES, least=ENOUGH, below=math.inf):
    """Return (name, n, alpha, share) of `count` kinds of spectra of every body, by a fixed choice.

    The tail has at least `least` values, expected, and fewer than `below`. Sizes come in turn, as
    far as a body has cells of every size; exponents and shares are drawn.
    """
    chosen = []
    for name in names:
        rng = np.random.default_rng([7, *name.encode()])
        by_size = {n: _possible(name, n, least, below) for n in sizes}
        for these in by_size.values():
            rng.shuffle(these)
        in_turn = [these[i] for i in range(count) for these in by_size.values() if i < len(these)]
        chosen += in_turn[:count]
    return chosen


def _possible(name, n, least, below):
    fixed = None if name == "none" else BODIES[name].share
    return [
        (name, n, alpha, share)
        for alpha in ALPHAS
        for share in ((1.0,) if name == "none" else (fixed(alpha),) if fixed else SHARES)
        if least <= share * n < below and is_possible(name, alpha, share)
    ]


# What can be wrong with the top of a spectrum; each takes descending values of shape (count, n).
def times(how_many, factor):
    """Return a function that multiplies the largest values of every spectrum."""

    def contaminated(_rng, x):
        x = x.copy()
        x[:, :how_many] *= factor
        return -np.sort(-x, axis=1)

    return contaminated


def far_spikes(how_many):
    """Return a function that replaces the largest values by spikes far above all others."""

    def contaminated(rng, x):
        x = x.copy()
        x[:, :how_many] = x[:, :1] * rng.uniform(20, 40, (len(x), how_many))
        return -np.sort(-x, axis=1)

    return contaminated


TOPS = {
    "3 largest × 4": times(3, 4.0),
    "8 largest × 2": times(8, 2.0),
    "5 largest × 0.5": times(5, 0.5),
    "1 spike far above": far_spikes(1),
    "4 spikes far above": far_spikes(4),
}


# Tails that are no power law above any xmin; the exponent is that of the limit.
def burr(rng, alpha, size):
    """Return draws whose survival is (1 + x^(alpha - 1))^-1, of the Burr distribution."""
    return (rng.random(size) ** -1.0 - 1) ** (1 / (alpha - 1))


def squared_student(rng, alpha, size):
    return rng.standard_t(2 * (alpha - 1), size) ** 2


def cut_off(rng, alpha, size):
    """Return draws above 1 of the density x^-alpha exp(-x / 20), by rejection."""
    x = np.empty(0)
    while len(x) < math.prod(size):
        more = rng.random(2 * math.prod(size)) ** (-1 / (alpha - 1))
        x = np.concatenate([x, more[rng.random(len(more)) < np.exp(-(more - 1) / 20)]])
    return x[: math.prod(size)].reshape(size)


LIMITS = {
    "Burr": burr,
    "squared Student's t": squared_student,
    "exponential cut-off at 20 xmin": cut_off,
}


def sample_covariance(rng, population, N):
    """Return the descending eigenvalues of the covariance of N Gaussian samples, N >= M.

    The population values have shape (M,). By Bartlett's decomposition the scatter matrix of white
    samples is A A^T, with A lower triangular: chi of N, N - 1, ... degrees of freedom on the
    diagonal and standard normals below it.
    """
    M = len(population)
    A = np.tril(rng.standard_normal((M, M)), -1)
    A[np.diag_indices(M)] = np.sqrt(rng.chisquare(N - np.arange(M)))
    A *= np.sqrt(population / N)[:, None]
    return np.maximum(np.linalg.eigvalsh(A @ A.T)[::-1], 0)
