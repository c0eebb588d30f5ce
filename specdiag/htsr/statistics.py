"""Numbers -> their mean, and its 95 % interval.

`specdiag.features` lies below this package and computes its own quantile (see its jackknife).
"""

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LEVEL = 0.95  # of every interval
# Fewer layers have no mean: its interval would be longer than the range of 95 % of single layers,
# 1.96 standard deviations to each side, while Student's t of three layers reaches 2.5.
MIN_LAYERS = 4

_FARTHEST = 300.0  # of an end on the scale of the logarithm: its exponential is still a number


def known(values: ArrayLike) -> Array:
    """Return the values that are not NaN: means are over the layers that have a value."""
    x = np.asarray(values, dtype=np.float64)
    return x[~np.isnan(x)]


def mean(values: ArrayLike) -> float:
    """Return the mean of the values that are not NaN; NaN when there are none."""
    x = known(values)
    return float(x.mean()) if len(x) else math.nan


def median(values: Array) -> float:
    """Return the median of one or more values, as `np.median` does, which imports numpy.ma."""
    ordered, middle = np.sort(values), len(values) // 2
    return float(ordered[middle] + ordered[-1 - middle]) / 2


def mean_interval(values: Array, level: float = LEVEL) -> tuple[Any, Any]:
    """Return the ends of Student's t interval of the mean; NaN for fewer than two values.

    `values` has the shape (n,), or (n, k) for k samples in columns; the ends then have shape (k,).
    """
    n = len(values)
    if n < 2:
        empty = np.full(values.shape[1:], math.nan)[()]
        return empty, empty
    reach = student_quantile(n - 1, level) * values.std(axis=0, ddof=1) / math.sqrt(n)
    center = values.mean(axis=0)
    return center - reach, center + reach


def alpha_mean_interval(values: ArrayLike) -> tuple[float, tuple[float, float]]:
    """Return the mean of alpha over layers and its 95 % interval, which stays above alpha = 1.

    A power law that can be normalised has alpha > 1, so the interval is Student's t on the scale of
    log(mean - 1), by the delta method: the mean minus 1 is divided and multiplied by exp(t s / (m
    sqrt(n))), with m the mean of alpha - 1 and s the standard deviation of the n values. Values of
    alpha - 1 are skewed to the right. In simulations with lognormal and gamma ones, Student's t of
    the mean itself left the possible in up to 82 % of the cases at 4 layers and 21 % at 8. It
    covered 82 to 94 % at 4 layers and 83 to 94 % at 8, this interval 90 to 95 % and 88 to 94 %; in
    no case of 4 to 48 layers did it cover less than Student's t, up to 0.1 %. If one layer in five
    is of another kind, both cover only 77 to 84 % below 10 layers: often no such layer is there.

    Parameters
    ----------
    values : array_like of shape (n_layers,)
        Alpha of each layer, above 1; NaN is left out.

    Returns
    -------
    mean : float
    interval : tuple of float
        All three are NaN for fewer than `MIN_LAYERS` values.
    """
    x = known(values)
    if len(x) < MIN_LAYERS:
        return math.nan, (math.nan, math.nan)
    center = float(x.mean())
    return center, alpha_interval(center, float(x.std(ddof=1)) / math.sqrt(len(x)), len(x) - 1)


def alpha_interval(mean: float, error: float, freedom: float) -> tuple[float, float]:
    """Return the 95 % interval of a mean of alpha above 1 with this standard error.

    See `alpha_mean_interval`. `freedom` is the number of degrees of freedom of the error.
    """
    reach = min(student_quantile(freedom) * error / (mean - 1), _FARTHEST)
    return 1 + (mean - 1) * math.exp(-reach), 1 + (mean - 1) * math.exp(reach)


@cache
def student_quantile(freedom: float, level: float = LEVEL) -> float:
    """Return how many standard errors an interval by Student's t reaches to each side.

    That is the quantile at (1 + level) / 2. The relative error is about 1e-8 up to 10 degrees of
    freedom, 1e-7 at 100 and 1e-6 at 1,000. `scipy.special` has the exact value, but its import
    takes 0.4 s of processor time, and that of NumPy, which every command needs, 0.25 s.

    With t = sqrt(freedom) tan(angle) the density of the angle is cos(angle)^(freedom - 1).
    """
    angle = np.linspace(0, np.pi / 2, 20_001)
    density = np.cos(angle) ** (freedom - 1)
    area = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(freedom) * math.tan(float(np.interp(level, area / area[-1], angle)))
