"""Numbers -> their mean, and its 95 % interval by Student's t.

`specdiag.features` lies below this package and computes its own quantile (see its jackknife).
"""

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LEVEL = 0.95  # of every interval


def known(values: ArrayLike) -> Array:
    """Return the values that are not NaN: means are over the layers that have a value."""
    x = np.asarray(values, dtype=np.float64)
    return x[~np.isnan(x)]


def mean(values: ArrayLike) -> float:
    """Return the mean of the values that are not NaN; NaN when there are none."""
    x = known(values)
    return float(x.mean()) if len(x) else math.nan


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


@cache
def student_quantile(freedom: int, level: float = LEVEL) -> float:
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
