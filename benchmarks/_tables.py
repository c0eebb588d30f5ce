"""What the tables of the calibration have in common: rates, ranges and names in words."""

import math

import numpy as np

NAMES = {
    "none": "none (power law throughout)",
    "uniform": "uniform",
    "exponential": "exponential, continuous",
    "exponential-csn": "exponential, smooth (Clauset et al.)",
    "bulk": "separated Marchenko-Pastur bulk",
    "lognormal": "lognormal, smooth",
    "lognormal-cut": "lognormal, cut at xmin",
    "log-uniform": "log-uniform (exponent 1)",
    "two-humps": "two humps",
    "triangular": "triangular",
    "lognormal-far": "lognormal far below xmin",
    "lognormal-columns": "lognormal column scales",
    "spiked": "five spikes on a Gaussian bulk",
}


def column(rows, key):
    return np.array([row[key] for row in rows], dtype=float)


def percent(share):
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def rate(share, count):
    """Return a percentage with its standard error; no hits have the error of one hit."""
    at_least = min(max(share, 1 / count), 1 - 1 / count)
    error = math.sqrt(at_least * (1 - at_least) / count)
    return f"{percent(share)} ± {100 * error:.1f}"


def mean_and_range(values):
    return f"{percent(values.mean())} ({percent(values.min())}–{percent(values.max())})"


def name_of(kind):
    name, _, parameter = kind.rpartition("-")
    return {
        "student": f"Student's t, {parameter} degrees of freedom",
        "population": f"population power law {parameter}",
    }.get(name, NAMES.get(kind, kind))
