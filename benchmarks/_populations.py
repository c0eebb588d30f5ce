"""Kinds of rows whose population stays the same while the rows are drawn again.

`KINDS` of each half was fixed before any estimator of the scatter was run on the other half:
an estimator may be chosen on "tuning", and is judged on "held out".
"""

import math

import numpy as np
from scipy.stats import norm

SHAPES = {  # (M, N / M)
    "tuning": ((128, 1), (128, 4), (128, 16), (256, 1), (256, 2)),
    "held out": ((128, 2), (192, 16), (256, 4), (384, 1), (512, 1)),
}
KINDS = {
    "tuning": ("gaussian", "power-2.5", "power-4", "planted-5", "rows-student-3", "drawn-3"),
    "held out": (
        "uniform",
        "power-2",
        "power-3",
        "planted-20",
        "lognormal-1",
        "rows-lognormal-0.8",
        "entries-student-5",
        "drawn-2.5",
    ),
}


CONTRAST = ("anew-2", "anew-3")  # what the posterior is about: no estimate is judged by these


def cells():
    """Yield (half, kind, M, N / M) of every cell."""
    for half, kinds in KINDS.items():
        for M, ratio in SHAPES[half]:
            for kind in kinds:
                yield half, kind, M, ratio
    for M, ratio in SHAPES["tuning"]:
        for kind in CONTRAST:
            yield "contrast", kind, M, ratio


def limit(kind):
    """Return the exponent of the spectrum of infinitely large matrices, or NaN."""
    name, _, parameter = kind.rpartition("-")
    if name == "entries-student":
        return 1 + float(parameter) / 2
    return float(parameter) if name in ("power", "drawn", "anew") else math.nan


def population(kind, M, rng):
    """Return a function (rng, N) -> N rows of length M, drawn from one population.

    gaussian, uniform: entries without structure.
    power-a, lognormal-s: Gaussian rows; the variances are quantiles of a power law of exponent a,
    or of a lognormal whose logarithm has standard deviation s.
    drawn-a: the same as power-a, but with variances that are drawn from the power law once;
    anew-a: with variances drawn anew with every matrix.
    planted-k: k directions of variance 5 to 25 (of 2 and more, by a power law of exponent 2, if k
    is above 10) in a random basis, all others of variance 1.
    rows-student-v, rows-lognormal-s: Gaussian rows, each times a random scale of its own, so that
    a row is drawn from Student's t with v degrees of freedom, or has a lognormal scale.
    entries-student-v: independent entries of Student's t.
    """
    name, _, parameter = kind.rpartition("-")
    value = float(parameter) if name else 0.0
    match name or kind:
        case "gaussian":
            return lambda rng, N: rng.standard_normal((N, M))
        case "uniform":
            return lambda rng, N: rng.random((N, M)) - 0.5
        case "power" | "drawn" | "lognormal":
            scales = np.sqrt(_variances(name, value, M, rng))
            return lambda rng, N: rng.standard_normal((N, M)) * scales
        case "anew":
            return lambda rng, N: (
                rng.standard_normal((N, M)) * np.sqrt(_variances("drawn", value, M, rng))
            )
        case "planted":
            k = int(value)
            strength = 5 + 20 * rng.random(k) if k <= 10 else 2 / rng.random(k)
            directions = np.linalg.qr(rng.standard_normal((M, k)))[0]
            stretch = (directions * (np.sqrt(strength) - 1)) @ directions.T + np.eye(M)
            return lambda rng, N: rng.standard_normal((N, M)) @ stretch
        case "rows-student":
            return lambda rng, N: (
                rng.standard_normal((N, M)) / np.sqrt(rng.chisquare(value, (N, 1)) / value)
            )
        case "rows-lognormal":
            return lambda rng, N: (
                rng.standard_normal((N, M)) * np.exp(value * rng.standard_normal((N, 1)))
            )
        case "entries-student":
            return lambda rng, N: rng.standard_t(value, (N, M))
    raise ValueError(f"unknown kind {kind!r}")


def _variances(name, value, M, rng):
    quantile = rng.random(M) if name == "drawn" else (np.arange(M) + 0.5) / M
    return (
        np.exp(value * norm.ppf(quantile)) if name == "lognormal" else quantile ** (1 / (1 - value))
    )
