"""Moments of blocks of two networks -> overlap of their leading directions, and their CKA."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specdiag.features.blocks import Array, Blocks, Moments, merged, scaled, traces
from specdiag.features.estimators import Estimate, Jackknife

FOLDS = 16  # of blocks, each left out once
LEAST = 0.9  # overlap of halves from which leading directions are known
MOST = 4.0  # times the participation ratio: the largest number of leading directions


class Overlap(NamedTuple):
    """Mean squared cosine between the spaces of the `n` leading directions of two networks.

    n is 0 if no such space is known well enough.
    """

    n: int
    value: Estimate


class _Folds(NamedTuple):
    """Sums over the samples of folds, about the mean of all, with a total variance of 1."""

    size: Array  # (k,)
    sums: Array  # (k, d)
    squares: Array  # (k, d, d)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The numbers of the folds."""
        return np.arange(len(self.size))

    def covariance(self, kept: NDArray[np.bool_] | None = None) -> Array:
        """Return the covariance of the samples of some folds, or of all."""
        own = self.numbers >= 0 if kept is None else kept
        n, sums = self.size[own].sum(), self.sums[own].sum(axis=0)
        squares = self.squares[own].sum(axis=0)
        return np.asarray(squares / n - np.outer(sums, sums) / n**2, np.float64)


def overlap(first: Sequence[Moments], second: Sequence[Moments], *, paired: bool) -> Overlap:
    """Return the overlap of the leading directions of two networks of the same width.

    Eigenvectors of a sample are only known where eigenvalues are further apart than their errors.
    So the number of directions is the one, nearest to the smaller participation ratio, for which
    the two halves of the blocks of each network agree in them to `LEAST`. Sampling makes overlaps
    too small, by a term of order 1 / n, which the jackknife removes. The interval reaches from the
    overlap of the sample to the corrected one, and on each side by its error.

    Parameters
    ----------
    first, second : sequence of Moments
        Blocks of samples; at least five of each.
    paired : bool
        Whether blocks of the same position hold the same samples.
    """
    a, b = _folds(first), _folds(second)
    count = _known(a, b)
    if not count:
        return Overlap(0, Estimate(math.nan))
    both = [_leading(one.covariance(), count) for one in (a, b)]
    without = [
        [_leading(one.covariance(one.numbers != i), count) for i in one.numbers] for one in (a, b)
    ]
    value = _shared(*both)
    if paired:
        series = [np.array([value, *map(_shared, *without)])]
    else:
        series = [
            np.array([value, *(_shared(one, both[1]) for one in without[0])]),
            np.array([value, *(_shared(both[0], one) for one in without[1])]),
        ]
    tools = [Jackknife(one.size) for one in (a, b)]
    corrected = value + sum(tool.correction(x) for tool, x in zip(tools, series, strict=False))
    reach = math.hypot(*(tool.reach(x) for tool, x in zip(tools, series, strict=False)))
    low, high = min(value, corrected) - reach, max(value, corrected) + reach
    return Overlap(count, Estimate(*(min(max(x, 0.0), 1.0) for x in (corrected, low, high))))


def _folds(blocks: Sequence[Moments]) -> _Folds:
    sums = scaled(blocks, functools.reduce(merged, blocks))
    fold = np.arange(len(blocks)) % min(FOLDS, len(blocks))
    kept = [fold == i for i in range(fold.max() + 1)]
    return _Folds(
        *(np.array([x[own].sum(axis=0) for own in kept]) for x in sums[:3]),
    )


def _known(a: _Folds, b: _Folds) -> int:
    """Return how many leading directions the halves of both networks agree in, or 0."""
    agreed, ratios = [], []
    for one in (a, b):
        d, halves = one.sums.shape[1], one.numbers % 2
        covariance = one.covariance()
        ratios.append(float(np.trace(covariance) ** 2 / (covariance**2).sum()))
        most = max(1, min(d // 2, math.ceil(MOST * ratios[-1])))
        vectors = [_leading(one.covariance(halves == i), most) for i in (0, 1)]
        cosines = (vectors[0].T @ vectors[1]) ** 2
        agreed.append(np.diag(cosines.cumsum(0).cumsum(1)) / np.arange(1, most + 1))
    most = min(map(len, agreed))
    counts = np.flatnonzero(np.minimum(agreed[0][:most], agreed[1][:most]) >= LEAST) + 1
    near = min(ratios)
    return min(map(int, counts), key=lambda k: abs(math.log(k / near)), default=0)


def _leading(covariance: Array, count: int) -> Array:
    """Return the eigenvectors of the largest eigenvalues, in columns, the largest first."""
    from scipy.linalg import eigh

    d = len(covariance)
    _, vectors = eigh(covariance, subset_by_index=[d - count, d - 1])
    return np.asarray(vectors[:, ::-1], np.float64)


def _shared(a: Array, b: Array) -> float:
    return float(((a.T @ b) ** 2).sum()) / a.shape[1]


class Similarity(NamedTuple):
    """Linear CKA of two networks on the same samples: without bias, and as published."""

    value: Estimate
    biased: float


def similarity(blocks: Sequence[Moments], d: int) -> Similarity:
    """Return the linear CKA of features side by side, those of the first network the `d` first.

    |C|^2 / (|A| |B|) of the covariances A, B and the cross-covariance C of both (Kornblith,
    Norouzi, Lee & Hinton 2019, ICML). The published estimate is too high, the more features there
    are for a sample. Here the three squared norms are averaged over products of different blocks
    (`traces`), so they have no bias, also if the samples of a block depend on each other; for
    independent samples the same idea is in Nguyen, Raghu & Kornblith (2021), ICLR. The norm of C is
    found from the covariance of all features: its square is |A|^2 + |B|^2 + 2 |C|^2.
    """
    total = functools.reduce(merged, blocks)
    a, b, c = (total.scatter[own] for own in (np.s_[:d, :d], np.s_[d:, d:], np.s_[:d, d:]))
    biased = float((c**2).sum()) / math.sqrt(float((a**2).sum()) * float((b**2).sum()))
    sums = scaled(blocks, total)
    whole, first, second = (traces(_part(sums, own))[0] for own in (np.s_[:], np.s_[:d], np.s_[d:]))
    if min(first.min(), second.min()) <= 0:  # too few samples: errors exceed the traces
        return Similarity(Estimate(math.nan), biased)
    values = (whole - first - second) / 2 / np.sqrt(first * second)
    low, high = _interval(values, Jackknife(sums.size))
    return Similarity(Estimate(*(min(max(x, 0.0), 1.0) for x in (values[0], low, high))), biased)


def _interval(values: Array, tool: Jackknife) -> tuple[float, float]:
    """Return the widest ends of two intervals: of the values, and of their log odds.

    Near 1, where errors are skewed, the second is right; near 0 the first.
    """
    value, reach = float(values[0]), tool.reach(values)
    low, high = value - reach, value + reach
    if values.min() > 0 and values.max() < 1:
        logits = np.log(values) - np.log1p(-values)
        apart = tool.reach(logits)
        low = min(low, 1 / (1 + math.exp(apart - logits[0])))
        high = max(high, 1 / (1 + math.exp(-apart - logits[0])))
    return low, high


def _part(sums: Blocks, own: slice) -> Blocks:
    squares = sums.squares[:, own, own]
    flat = squares.reshape(len(squares), -1)
    return Blocks(sums.size, sums.sums[:, own], squares, flat @ flat.T)
