"""Two spectra -> how much matrices with them share if their directions are unrelated.

Directions are unrelated if those of one matrix are rotated at random: Q is uniform among the
orthogonal matrices of n dimensions. For symmetric S and T with traces of 1, x = tr(S Q T Q') has
the mean 1 / n and the variance 2 (tr S² - 1/n) (tr T² - 1/n) / ((n - 1) (n + 2)), both exactly
(Collins & Śniady 2006, Commun. Math. Phys. 264: the moments of second order of Haar measure). The
overlap of two subspaces of dimension k is k x, of projections S and T divided by k; the share of an
update in a subspace is k x, of its spectrum and a projection; CKA is x over the norms of S and T.
"""

import math
from typing import NamedTuple

LEVEL = 0.95  # of the limit


class Chance(NamedTuple):
    """What two unrelated matrices share: the expectation, exactly, and the 95 % upper limit."""

    expected: float
    limit: float


def chance(n: int, purities: tuple[float, float], scale: float) -> Chance:
    """Return the expectation and the 95 % limit of scale * tr(S Q T Q'), which is from 0 to 1.

    The limit is that of the Beta distribution with the exact mean and variance. It is exact for two
    directions, whose squared cosine has that distribution.

    Parameters
    ----------
    n : int
        Number of dimensions.
    purities : tuple of float
        tr S² and tr T²: 1 / k for a projection on k dimensions divided by k.
    scale : float
    """
    mean = scale / n
    if n < 2 or mean >= 1 or not all(map(math.isfinite, (*purities, scale))):
        return Chance(min(mean, 1.0), 1.0) if math.isfinite(mean) else Chance(math.nan, math.nan)
    a, b = (max(p - 1 / n, 0.0) for p in purities)
    variance = 2 * a * b / ((n - 1) * (n + 2)) * scale**2
    if variance <= 1e-24 * mean**2:
        return Chance(mean, mean)
    from scipy.special import betaincinv

    size = mean * (1 - mean) / variance - 1
    if size <= 0:
        return Chance(mean, 1.0)
    return Chance(mean, float(betaincinv(mean * size, (1 - mean) * size, LEVEL)))
