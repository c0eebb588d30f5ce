"""Eigenvalues -> does the tail have a constant exponent, or does it steepen? A Bayes factor.

Plain arrays in and out. A lognormal, an exponential or a Weibull distribution differs from a power
law by a hazard of log lambda that rises with lambda. Two things hide that in the eigenvalues of a
matrix, so there are two steps.

**Population values.** A matrix of finite size bends the spectrum of a true power law nearly as much
as a lognormal is bent. Let W be of shape (M, N), M <= N, with independent columns whose covariance
has the eigenvalues t. An eigenvalue l of WW' / N that stands apart from the others then satisfies

    1 / t = r(l) = ((N - M) / l + sum over the other eigenvalues l_j of 1 / (l - l_j)) / N

(Silverstein 1995, J. Multivar. Anal. 55; for spikes Bai & Ding 2012, Random Matrices Theory Appl.
1). Elsewhere the sum is taken at l + iw, with the bandwidth w = N^(-1/3) l of Ledoit & Wolf (2020,
Ann. Statist. 48), and

    1 / t = Re r (1 + (Im r / Re r)^2)^0.2.

The power 0.2 was set by simulation: 0 takes too much of the bend back, 1/2, the modulus, too
little. M is the number of eigenvalues above the rank gate, so rows of zeros change nothing. The
positions of a convolution kernel are taken for matrices of one population: r is their mean, a sum
over the pooled eigenvalues.

**Evidence.** Sort the upper part of the values downwards, t_1 >= ... >= t_(m + 1). The spacings
E_i = i log(t_i / t_(i+1)) are exponential with the hazard of log t as their rate (Rényi 1953). The
windows of the tail are those of `posterior`: it ends at k, below n outliers, whose spacings have a
rate of their own. In the tail, n < i <= k, the rate is beta (i / c)^b, where c is the geometric
mean of n + 1 ... k: b = 0 is a power law, b < 0 a tail that falls ever faster. With a flat prior of
beta, a window and b have the evidence

    Gamma(k - n + 1) / S(b)^(k - n + 1),   S(b) = sum over n < i <= k of E_i (i / c)^b,

times that of the outliers and of everything below the tail. The Bayes factor sets b = 0 against a
half-normal prior of b < 0, each averaged over its own windows: a rising hazard may claim a longer
tail than a constant one, and that is what tells them apart. Without the outliers, a few large
eigenvalues above an edge would count for a constant hazard: theirs is low, so a rising one is worse
still. Bayes factors: Kass & Raftery 1995, J. Am. Stat. Assoc. 90.

**The eigenvalues themselves.** The map takes bend away, and it takes too much from some matrices.
So the eigenvalues as they are must not count too much against a power law either: if the values do
not steepen five to one, the factor is

    min(factor of the values, factor of the eigenvalues + bend).

If the second is what withholds the call, the slope is that of the eigenvalues, too. The edge of
noise in a square matrix nearly becomes a power law by the map; at M >= 256 its eigenvalues steepen
with odds of mostly 10^2 to 10^7 to one, those of power laws with less than 10^1.5. The allowance
for the bend of a finite matrix is 125 to one; it was set by simulation. It is zero where the map is
plainly wrong: it keeps the order of large eigenvalues if the matrix is what it assumes, but in a
signal *added* to noise the directions repel each other far less, and in nearly square matrices the
map often reverses the order. It is zero if it does so among the upper quarter.

docs/calibration.md has the rates of error.
"""

import functools
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specdiag.htsr.tail.change_points import layout, spacings, tail_ends
from specdiag.htsr.tail.posterior import MIN_WINDOW, OUTLIERS, log_outliers, log_size_prior
from specdiag.htsr.tail.power_law import TIE, Array, checked_eigenvalues

EVIDENCE = math.log10(5)  # a call needs five to one
BEND = 3 * EVIDENCE  # by which a finite matrix may hide a power law
MIN_VALUES = 17
TOP = 0.6  # share of the values that is used; the lowest ones are the least certain
DAMPING = 0.2
SLOPE_SD = 1.0  # of b: -0.15 to -0.5 for lognormal, exponential and Weibull tails

_SLOPES = np.linspace(-1.5, 1, 51)
_CONSTANT = int(np.argmin(np.abs(_SLOPES)))
_BLOCK = 32  # rows of the (value, eigenvalue) table computed at a time, so that they stay in cache


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Whether the exponent of a tail is constant; NaN if there are too few eigenvalues.

    Attributes
    ----------
    log10_factor : float
        log10 of the Bayes factor of a constant exponent against a tail that falls ever faster: at
        least `EVIDENCE` favours the power law five to one, at most -`EVIDENCE` the other. Lowered
        if the eigenvalues themselves steepen, see the head of the module.
    slope, slope_sd : float
        Posterior mean and standard deviation of d log(hazard of log lambda) / d log(rank) in the
        tail, prior uniform from -1.5 to 1. A power law has 0. A tail that steepens towards the
        largest eigenvalues has a negative slope. Of the population values, or of the eigenvalues if
        these withhold the call.
    """

    log10_factor: float = math.nan
    slope: float = math.nan
    slope_sd: float = math.nan


NO_KIND = Kind()


def tail_kind(eigenvalues: ArrayLike, shape: tuple[int, ...]) -> Kind:
    """Return the evidence for a constant exponent of the tail of a matrix's spectrum.

    Parameters
    ----------
    eigenvalues : array_like of shape (n_eigenvalues,)
        Positive, in any order, those above the rank gate.
    shape : tuple of int
        Of the matrix, (n, m), or of the kernel, (out, in, *kernel).

    Returns
    -------
    Kind
        NaN if fewer than 17 population values are left, which takes about 29 eigenvalues, or if all
        of these are equal.

    Raises
    ------
    ValueError
        If the eigenvalues are not one-dimensional, or not all positive and finite, or more than a
        matrix of this shape has.
    """
    x = checked_eigenvalues(eigenvalues)[::-1]
    values = population_values(x, shape)
    of_values = evidence(np.sort(values)[::-1])
    if not of_values.log10_factor > -EVIDENCE:  # it steepens, or is NaN
        return of_values
    of_eigenvalues = evidence(x[: len(values)])
    in_order = np.all(np.diff(values[: len(x) // 4]) <= 0)
    hidden = of_eigenvalues.log10_factor + (BEND if in_order else 0.0)
    withheld = hidden < min(of_values.log10_factor, EVIDENCE)
    return replace(
        of_eigenvalues if withheld else of_values,
        log10_factor=min(of_values.log10_factor, hidden),
    )


def population_values(eigenvalues: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return the variances of the population behind the upper part of the eigenvalues.

    Parameters and errors are those of `tail_kind`. The values are in the order of the descending
    eigenvalues, on their scale; those without a positive estimate are left out.
    """
    x = checked_eigenvalues(eigenvalues)[::-1]
    positions = math.prod(shape[2:])
    most, N = min(shape[:2]) * positions, max(shape[:2])
    if len(x) > most:
        raise ValueError(f"{len(x)} eigenvalues of shape {shape}: expected at most {most}")
    largest = x[:1]
    x = x / largest
    top = x[: math.ceil(TOP * len(x))]
    width = N ** (-1 / 3) * top
    real, imaginary = np.empty(len(top)), np.empty(len(top))
    for start in range(0, len(top), _BLOCK):
        rows = slice(start, start + _BLOCK)
        apart = top[rows, None] - x
        inverse = 1 / (apart**2 + width[rows, None] ** 2)
        real[rows] = np.einsum("ij,ij->i", apart, inverse)
        imaginary[rows] = width[rows] * inverse.sum(axis=1)
    real += (N * positions - len(x)) / top
    imaginary -= 1 / width  # the eigenvalue itself
    known = real > 0
    size = real[known] * (1 + (imaginary[known] / real[known]) ** 2) ** DAMPING
    values: Array = largest * N * positions / size
    return values


def evidence(values: Array) -> Kind:
    """Return the kind of the tail of independent draws, descending and positive."""
    if len(values) < MIN_VALUES or math.log(values[0] / values[-1]) <= TIE:
        return NO_KIND
    e = spacings(np.log(values))
    _, log_below = tail_ends(e)
    w = _windows(len(e))
    parts = np.cumsum(np.add.reduceat(w.powers * e, w.bounds[:-1], axis=1), axis=1)
    total = parts[:, w.end]
    total[:, w.without :] -= parts[:, w.outliers[w.without :] - 1]
    distinct = total[_CONSTANT] > TIE * w.k  # equal values are no tail
    log_total = np.log(np.where(distinct, total, 1.0))
    log_window = np.where(
        distinct, log_outliers(e)[w.outliers] + log_below[w.end - w.first], -math.inf
    )
    by_slope = _log_sum(w.fixed + log_window - (w.k + 1) * log_total)
    prior = -0.5 * (_SLOPES[:_CONSTANT] / SLOPE_SD) ** 2
    steepens = _log_sum(by_slope[:_CONSTANT] + prior) - _log_sum(prior)
    weight = np.exp(by_slope - by_slope.max())
    weight /= weight.sum()
    slope = float(weight @ _SLOPES)
    return Kind(
        log10_factor=float(by_slope[_CONSTANT] - steepens) / math.log(10),
        slope=slope,
        slope_sd=math.sqrt(float(weight @ (_SLOPES - slope) ** 2)),
    )


class _Windows(NamedTuple):
    """What follows from the number m of spacings; windows without outliers come first."""

    powers: Array  # [b, i - 1]: i^b
    bounds: NDArray[np.int64]  # where a window may begin or end: OUTLIERS, then the ends
    outliers: NDArray[np.int64]  # of every window: index of its number of outliers
    end: NDArray[np.int64]  # of every window: bounds[end + 1] is its end
    first: int  # the `end` of the first end
    without: int  # number of windows without outliers
    k: NDArray[np.int64]  # of every window: spacings in it
    fixed: Array  # [b, window]: log of prior, Gamma(k + 1) and c^(b (k + 1))


@functools.lru_cache(maxsize=16)
def _windows(m: int) -> _Windows:
    """Return the windows of m spacings."""
    ends, *_, log_gamma = layout(m)
    sizes = ends - np.array(OUTLIERS)[:, None]
    outliers, end = np.nonzero(sizes >= MIN_WINDOW)
    k = sizes[outliers, end]
    log_rank = np.log(np.arange(1, m + 1))
    sum_log = np.append(0.0, np.cumsum(log_rank))
    mean_log = (sum_log[ends[end]] - sum_log[np.array(OUTLIERS)[outliers]]) / k
    return _Windows(
        powers=np.exp(_SLOPES[:, None] * log_rank),
        bounds=np.append(OUTLIERS, ends),
        outliers=outliers,
        end=end + len(OUTLIERS) - 1,
        first=len(OUTLIERS) - 1,
        without=int(np.count_nonzero(outliers == 0)),
        k=k,
        fixed=log_size_prior(k) + log_gamma[k] + (k + 1) * _SLOPES[:, None] * mean_log,
    )


def _log_sum(logs: Array) -> Array:
    """Return log(sum(exp(logs))) over the last axis."""
    top = logs.max(axis=-1, keepdims=True)
    total: Array = np.log(np.exp(logs - top).sum(axis=-1)) + top[..., 0]
    return total
