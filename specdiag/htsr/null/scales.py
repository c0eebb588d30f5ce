"""Weight matrix -> the same matrix without its row scales, its column scales and its offset.

Plain arrays in and out. Rows and columns of a trained layer differ in scale for many reasons that
no correlation explains: fused matrices, folded normalisations, pruning, weight decay. Its spectrum
is then heavier than that of Gaussian entries of one scale. Dividing every entry W_ij by r_i c_j, so
that each row and each column has mean square 1, removes such scales: this is Sinkhorn's iteration
on the squared entries (Sinkhorn & Knopp 1967, Pacific J. Math. 21). More goes with them. Whatever
the variances of independent entries are, after the division all rows and all columns have the same
mean variance, and then the spectrum follows the Marchenko-Pastur law (Girko 2001, Theory of
Stochastic Canonical Equations, chapter 7). So heavy-tailed and sparse entries are covered, too.

The scales of a Gaussian matrix are noise: log r_i is half the log of a mean of m squares, with
variance trigamma(m / 2) / 4, about 1 / (2 m). Divided by them, the matrix would be more regular
than random. The logs are therefore shrunk towards their mean, by the share of their variance that a
Gaussian matrix shows; row and column means, which are subtracted afterwards, likewise. So a
Gaussian matrix stays nearly as it is, and real scales and offsets are removed nearly in full.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

SWEEPS = 30  # of Sinkhorn's iteration, at most
CONVERGED = 1e-3  # relative change of a squared scale in one sweep
ALONE = 3.0  # standard errors, from where on a deviation is real whatever the others are
ROUNDS = 3  # of scales and means, at most
SMALL_MEANS = 0.01  # mean square of the means; with more, there is another round
DEAD = 1e-10  # of the largest value: rows and columns below it, of unused channels, are zeros
ZERO = 1e-16  # of the largest value: smaller ones are zeros
TOGETHER = 2**18  # values whose sizes or signs are in memory at once
RANGE = (1e-30, 1e30)  # of squared scales: their inverses stay within that of float32

Array = NDArray[np.float64]
Single = NDArray[np.float32]


class Balanced(NamedTuple):
    """A matrix without scales and offset, and how far its scales were apart.

    Attributes
    ----------
    slices : ndarray of float32, shape (n_slices, n, m)
        One (out, in) matrix for each position of the kernel, of mean square about 1. Rows, columns
        and slices that are zero throughout are missing.
    row_sd, column_sd : float
        Standard deviation of the logarithms of the scales that rows and columns were divided by: 0
        if they differ no more than those of a Gaussian matrix. Of a kernel, root mean square over
        slices.
    offset_share : float
        Share of the mean square of the scaled entries that was in the means which were subtracted:
        0 if rows, columns and the whole have the means of a Gaussian matrix. Of a kernel, that of
        the slice where it is largest.
    """

    slices: Single
    row_sd: float
    column_sd: float
    offset_share: float


def balanced(W: ArrayLike) -> Balanced:
    """Return W, of shape (n, m) or (out, in, *kernel), without scales and offset.

    Every position of a kernel has scales and an offset of its own. W must be finite and not zero.
    """
    return balance(slices_of(W))


def slices_of(W: ArrayLike) -> Single:
    """Return a float32 copy (n_slices, n, m) of W without zeros, divided by its largest value."""
    return _without_zeros(_slices(np.asarray(W)))


def balance(slices: Single) -> Balanced:
    """Divide slices by their scales and subtract their offsets, in place.

    A row with a mean of its own has a scale that is partly the mean's, so the scales are taken
    again if means were removed.
    """
    count, n, m = slices.shape
    rows, columns = np.zeros((count, n)), np.zeros((count, m))
    kept = 1.0
    for _ in range(ROUNDS):
        row, column = _log_scales(slices)
        level = row.mean(axis=1, keepdims=True)
        row = level + _shrunk(row - level, _noise(m))
        level = column.mean(axis=1, keepdims=True)
        column = level + _shrunk(column - level, _noise(n))
        slices *= np.exp(-row).astype(np.float32)[:, :, None]
        slices *= np.exp(-column).astype(np.float32)[:, None, :]
        rows += row
        columns += column
        means = _centre(slices)
        kept *= max(1 - means, 0)
        if means < SMALL_MEANS:
            break
    if count > 1:
        level = rows.mean(axis=1) + columns.mean(axis=1)
        level -= level.mean()
        level -= _shrunk(level[None], _noise(n * m))[0]
        slices *= np.exp(level).astype(np.float32)[:, None, None]
    row_sd, column_sd = (float(np.sqrt(x.var(axis=1).mean())) for x in (rows, columns))
    return Balanced(slices, row_sd, column_sd, 1 - kept)


def fourth_moment(slices: Single) -> float:
    """Return the mean fourth power over the squared mean square: 3 for Gaussian entries."""
    second = fourth = 0.0
    for part in slices:
        squares = np.square(part).ravel()
        second += float(squares.sum(dtype=np.float64))
        fourth += float(squares @ squares)
    return slices.size * fourth / second**2


def _slices(W: NDArray[np.generic]) -> Single:
    """Return a float32 copy (slices, n, m), divided by its largest value.

    Rows and columns below `DEAD`, and values below `ZERO`, are set to zero: so no square, and no
    inverse of a sum of squares, leaves the range of float32. Weight decay takes channels that are
    not used down to 1e-39.
    """
    parts = np.moveaxis(W.reshape(*W.shape[:2], -1), 2, 0)
    largest = max(abs(float(W.max())), abs(float(W.min())))
    copy = np.empty(parts.shape, np.float32)
    dtype = np.float32 if W.dtype.itemsize <= 4 else np.float64
    np.divide(parts, dtype(largest), out=copy, dtype=dtype, casting="same_kind")
    for part in copy:
        columns = np.zeros(part.shape[1], np.float32)
        for some in in_blocks(part):
            sizes = np.abs(some)
            np.maximum(columns, sizes.max(axis=0), out=columns)
            some[sizes.max(axis=1) < DEAD] = 0
            some[sizes < ZERO] = 0
        part[:, columns < DEAD] = 0
    return copy


def in_blocks(part: Single) -> Iterator[Single]:
    """Yield the rows of a matrix, views of about `TOGETHER` values."""
    step = max(1, TOGETHER // part.shape[1])
    for start in range(0, len(part), step):
        yield part[start : start + step]


def _without_zeros(slices: Single) -> Single:
    """Return the slices without the rows, columns and slices that are zero throughout."""
    for axis in range(3):
        live = slices.any(axis=tuple({0, 1, 2} - {axis}))
        if not live.all():
            slices = slices.compress(live, axis=axis)
    return slices


def _log_scales(slices: Single) -> tuple[Array, Array]:
    """Return log r and log c: each row and column of W / (r c) has mean square 1, or is zero.

    Rows and columns of zeros, which one position of a kernel may have, get the mean of the others.
    """
    squares = slices * slices
    count, n, m = slices.shape
    row, column = np.ones((count, n), np.float32), np.ones((count, m), np.float32)
    for _ in range(SWEEPS):
        row = _or_one((squares @ (1 / column)[:, :, None])[:, :, 0] / np.float32(m))
        last = column
        column = _or_one(((1 / row)[:, None, :] @ squares)[:, 0] / np.float32(n))
        if np.abs(column / last - 1).max() < CONVERGED:
            break
    return _logs(row, squares.any(axis=2)), _logs(column, squares.any(axis=1))


def _or_one(x: NDArray[Any]) -> Single:
    """Return positive values within `RANGE`, and 1 for others.

    Where one entry outweighs its row and its column, their scales run apart in every sweep.
    """
    return np.where(x > 0, x.clip(*RANGE), 1).astype(np.float32, copy=False)


def _logs(square: Single, live: Any) -> Array:
    logs = np.log(square, dtype=np.float64) / 2
    if live.all():
        return logs
    mean = (logs * live).sum(axis=1, keepdims=True) / live.sum(axis=1, keepdims=True)
    return np.where(live, logs, mean)


def _noise(size: int) -> float:
    """Return the variance of half the log of a mean of so many squared Gaussian numbers.

    It is trigamma(size / 2) / 4: by recurrence to an argument of 8 or more, and there by the
    asymptotic series (Abramowitz & Stegun 6.4.6, 6.4.12).
    """
    x, total = size / 2, 0.0
    while x < 8:
        total += 1 / x**2
        x += 1
    return (total + 1 / x + 1 / (2 * x**2) + 1 / (6 * x**3) - 1 / (30 * x**5)) / 4


def _shrunk(deviation: Array, noise: float) -> Array:
    """Return deviations from a mean, by slice, times the share of their variance beyond noise.

    A deviation of far more than three standard errors is kept nearly whole, even where the others
    are only noise: one strong row of many adds little to their variance.
    """
    squares = deviation**2
    variance = np.mean(squares, axis=1, keepdims=True)
    share = np.maximum(1 - noise / np.maximum(variance, noise / 2), 0)
    return deviation * np.maximum(share, 1 - ALONE**2 * noise / np.maximum(squares, noise))


def _centre(slices: Single) -> float:
    """Subtract shrunk overall, row and column means; return the largest mean square of a slice."""
    _, n, m = slices.shape
    # Products with ones are faster than `mean`.
    row = (slices @ np.ones((m, 1), np.float32))[:, :, 0].astype(np.float64) / m
    column = (np.ones((1, n), np.float32) @ slices)[:, 0].astype(np.float64) / n
    overall = row.mean(axis=1, keepdims=True)
    row, column = _shrunk(row - overall, 1 / m), _shrunk(column - overall, 1 / n)
    row += _shrunk(overall, 1 / (n * m))
    if row.any():
        slices -= row.astype(np.float32)[:, :, None]
    if column.any():
        slices -= column.astype(np.float32)[:, None, :]
    return float((np.mean(row**2, axis=1) + np.mean(column**2, axis=1)).max())
