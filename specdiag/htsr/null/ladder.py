"""Alpha of a layer -> p-values under a ladder of nulls: Gaussian entries, scales, initialisation.

Each rung of the ladder is a null hypothesis that contains the one before it:

- **gaussian**: independent Gaussian entries of one scale give an alpha as low;
- **scales**: independent, symmetric entries of any row and column scales, with any offset, do;
- **initialisation**, where the recipe is known: so do untrained networks of the same recipe.

A layer is heavier than random if it beats every rung, so the p-value of the ladder is the largest
of the rungs (an intersection-union test: Berger 1982, Technometrics 24; it needs no correction).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from specdiag.compute import device
from specdiag.compute.eigenvalues import eigenvalues_of_gram
from specdiag.compute.gram import half_gram
from specdiag.htsr import esd
from specdiag.htsr.null import law
from specdiag.htsr.null.draws import rank_p
from specdiag.htsr.null.scales import Single, balance, fourth_moment, in_blocks, slices_of
from specdiag.htsr.tail.change_points import MIN_SPACINGS
from specdiag.htsr.tail.posterior import posterior_mean
from specdiag.htsr.tail.power_law import TIE

Array = NDArray[np.float64]

NULLS = ("ladder", "none")  # settings of `specdiag.alpha`
LEVEL = 0.05  # a rung that is not beaten ends the ladder
PARTS = 4, 2, 1  # every fourth of the rows or columns, whichever are fewer; every second; all
LEAST_PART = 64  # of them: smaller parts are not tested
NARROW = 12  # rows or columns of a kernel's positions: with fewer, their scales are mostly noise
FLIPS = 39  # of the signs of a very sparse or narrow matrix
SIGNS = np.array([-1, 1], dtype=np.int8)
FLIPS_SKEWNESS = 0.3  # of log(alpha - 1), as in the law
RESOLVED = 4 * float(np.finfo(np.float32).eps)  # float32 errors are about 0.4 eps of the largest
MAX_UNRESOLVED = 0.02  # share of eigenvalues; with more, float64 is needed


@dataclass(frozen=True, kw_only=True)
class NullTest:
    """The p-values of the rungs; NaN for a rung that was not run.

    Attributes
    ----------
    gaussian_p, scales_p : float
        Probability of so low an alpha under either null. The second is not computed if the first
        is above 0.05.
    null_p : float
        The largest of those that were run.
    row_scale_sd, column_scale_sd : float
        Standard deviation of the logarithms of the scales; see `scales.Balanced`.
    offset_share : float
        Share of the mean square that the offset took; see there.
    """

    gaussian_p: float = math.nan
    scales_p: float = math.nan
    null_p: float = math.nan
    row_scale_sd: float = math.nan
    column_scale_sd: float = math.nan
    offset_share: float = math.nan


def null_test(
    alpha: float,
    shape: tuple[int, ...],
    read: Callable[[], ArrayLike],
    dtype: DTypeLike,
    *,
    seed: int = 0,
) -> NullTest:
    """Return the p-values of a matrix whose posterior mean is alpha.

    Parameters
    ----------
    alpha : float
        Posterior mean of the matrix as it is.
    shape : tuple of int
        (n, m), or (out, in, *kernel).
    read : function
        Returns the matrix. It is called only if the Gaussian null is beaten, because the second
        rung costs another eigendecomposition.
    dtype : dtype_like
        Type that the matrix was stored in; it sets the rank gate.
    seed : int
        Of the sign flips of a very sparse matrix; nothing else is random.
    """
    gaussian_p = law.p_value(alpha, shape)
    if not gaussian_p <= LEVEL:
        return NullTest(gaussian_p=gaussian_p, null_p=gaussian_p)
    p, row_sd, column_sd, offset_share = scales_test(read, dtype, seed=seed)
    return NullTest(
        gaussian_p=gaussian_p,
        scales_p=p,
        null_p=gaussian_p if math.isnan(p) else max(gaussian_p, p),
        row_scale_sd=row_sd,
        column_scale_sd=column_sd,
        offset_share=offset_share,
    )


def scales_test(
    read: Callable[[], ArrayLike], dtype: DTypeLike, *, seed: int = 0
) -> tuple[float, float, float, float]:
    """Return the p-value of a matrix without scales and offset, their sds, and the offset's share.

    The null is the Gaussian law of its shape. A quarter of the columns, or of the rows if they are
    fewer, is tested first, then half of them, at a small part of the cost: if it is as heavy as can
    be (p = 1e-5), the whole is not measured. Each adds no more than 1e-5 to the false alarms.

    Where single entries carry most of their row or column, a division by scales leaves little of
    them but the sign (fewer than about three entries that are not zero in a row): the fourth moment
    is then above M / 2. And the positions of a kernel with a few channels have too few entries in a
    row to tell its scale. Then alpha is compared with that of 39 copies with random signs instead,
    through the skew-normal distribution.

    NaN if fewer than 17 eigenvalues are above rounding.
    """
    slices, row_sd, column_sd, offset_share = balance(slices_of(read()))  # W is freed before
    _, n, m = slices.shape
    if min(n, m) < NARROW or fourth_moment(slices) > min(n, m) / 2:
        del slices
        p = _flipped_p(slices_of(read()), dtype, np.random.default_rng(seed))
        return p, row_sd, column_sd, offset_share
    for part in PARTS:
        if part == 1 or min(n, m) // part >= LEAST_PART:
            p = _law_p(slices[:, :, ::part] if n >= m else slices[:, ::part], dtype)
            if p <= law.LEAST_P:
                break
    return p, row_sd, column_sd, offset_share


def _law_p(slices: Single, dtype: DTypeLike) -> float:
    count, n, m = slices.shape
    return law.p_value(_alpha(slices, dtype), (n, m, count))


def _flipped_p(slices: Single, dtype: DTypeLike, rng: "np.random.Generator") -> float:
    """Return the p-value from copies with random signs; the slices are those of W, and change."""
    alpha = _alpha(balance(slices.copy()).slices, dtype)
    if math.isnan(alpha):
        return math.nan
    drawn = np.empty(FLIPS)
    for i in range(FLIPS):
        for part in slices:
            for some in in_blocks(part):  # signs are drawn as integers of 64 bits
                some[...] *= rng.choice(SIGNS, some.shape)
        drawn[i] = math.log(_alpha(balance(slices.copy()).slices, dtype) - 1)
    y, drawn = math.log(alpha - 1), drawn[np.isfinite(drawn)]
    if math.isinf(y) or len(drawn) < FLIPS / 2:
        return 1.0
    sd = float(drawn.std(ddof=1)) * math.sqrt(1 + 1 / len(drawn))
    if sd == 0:
        return 1.0
    p = law.skew_normal_cdf((y - float(drawn.mean())) / sd, FLIPS_SKEWNESS)
    return min(max(p, law.LEAST_P), 1.0)


def _alpha(slices: Single, dtype: DTypeLike) -> float:
    """Return alpha; infinity if all eigenvalues are equal, NaN for fewer than 17 of them."""
    values = _eigenvalues(slices, dtype)
    if len(values) <= MIN_SPACINGS + 1:
        return math.nan
    if math.log(values[0] / values[-1]) <= TIE * len(values):
        return math.inf
    return posterior_mean(values)


def _eigenvalues(slices: Single, dtype: DTypeLike) -> Array:
    """Return eigenvalues, descending: in float32 arithmetic, which is faster, if that is enough.

    Its errors are far below the smallest change that alpha shows, apart from the last few
    eigenvalues of a square matrix, which are set to what float32 resolves. A matrix that lost rank
    has many such eigenvalues, and is measured in float64.
    """
    values = np.sort(_pooled(slices, np.float32).astype(np.float64))[::-1]
    floor = RESOLVED * values[0]
    if np.count_nonzero(values <= floor) <= MAX_UNRESOLVED * len(values):
        return np.maximum(values, floor)
    doubles = np.sort(_pooled(slices, np.float64))[::-1]
    return esd.resolved_eigenvalues(doubles, (*slices.shape[1:], len(slices)), dtype)


def _pooled(slices: Single, dtype: DTypeLike) -> NDArray[Any]:
    """Return the eigenvalues of all slices, whose Gram matrices are formed in the dtype.

    Those from a device are in float64.
    """
    solved = device.eigenvalues(slices)
    if solved is not None:
        return solved.ravel()
    values = np.empty((len(slices), min(slices.shape[1:])), dtype)
    for i, part in enumerate(slices):
        gram = half_gram(part, dtype)
        gram /= max(part.shape)
        values[i] = eigenvalues_of_gram(gram)
    return values.ravel()


def initialisation_p(alpha: float, untrained: Iterable[float]) -> float:
    """Return the probability of so low an alpha for untrained networks of the same recipe.

    It is (1 + #{untrained alphas <= alpha}) / (1 + K), Davison & Hinkley (1997), section 4.2, with
    K alphas of the same layer, so it cannot be below 1 / (1 + K): 19 networks are needed for 0.05.
    NaN if alpha is, or without untrained alphas; those that are NaN are left out.
    """
    return rank_p(alpha, np.array([x for x in untrained if not math.isnan(x)]))


def false_discovery_rate(p: ArrayLike) -> Array:
    """Return the Benjamini-Hochberg adjusted p-values (q) of several tests; NaN stays NaN.

    Benjamini & Hochberg (1995), J. R. Statist. Soc. B 57. Of all tests with q <= 0.05, at most 5 %
    are false discoveries, on average.
    """
    p = np.asarray(p, dtype=np.float64)
    q = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return q
