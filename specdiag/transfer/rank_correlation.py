"""Rank correlations within strata, their null distribution and intervals. Plain arrays in and out.

A row is a checkpoint. Rows that depend on each other, such as all with one spectrum, are a cluster:
clusters are what permutations exchange and the bootstrap draws.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specdiag.htsr.statistics import Array

Codes = NDArray[np.intp]

_TIE = 1e-12  # correlations of the same ranks in another order can differ by rounding


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Rows that are exchanged and drawn together.

    cluster : the cluster of each row; position : the place of the row among the members of its
    cluster; members : the rows of each cluster; group : clusters of one group can be exchanged,
    member by member.
    """

    cluster: Codes  # (n_rows,)
    position: Codes  # (n_rows,)
    members: Codes  # (n_clusters, n_positions)
    group: Codes  # (n_clusters,)


def codes(labels: Iterable[Hashable]) -> Codes:
    """Return a number for each label: 0 for the first one, 1 for the next different one, ..."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels], dtype=np.intp)


def shared_values(source: Codes, strata: Codes) -> Clusters:
    """Return clusters of the rows with one value, exchanged if they occur in the same strata.

    All frozen children of a base have its value, so a spectrum counts once, however many
    checkpoints have it.
    """
    where = [frozenset(strata[source == u]) for u in range(source.max(initial=-1) + 1)]
    first = [int(np.argmax(source == u)) for u in range(len(where))]
    return Clusters(
        cluster=source,
        position=np.zeros_like(source),
        members=np.array(first, dtype=np.intp).reshape(-1, 1),
        group=codes(where),
    )


def families(family: Codes, entry: Codes) -> Clusters:
    """Return families, exchanged if they differ only in their seed.

    A family is a base and everything trained from it; counterparts have the same entries. A family
    without a counterpart is never exchanged: rank it by itself.
    """
    n = family.max(initial=-1) + 1
    rows = [np.flatnonzero(family == f) for f in range(n)]
    rows = [r[np.argsort(entry[r], kind="stable")] for r in rows]
    members = np.zeros((n, max(map(len, rows), default=0)), dtype=np.intp)
    position = np.zeros_like(family)
    for i, r in enumerate(rows):
        members[i, : len(r)], position[r] = r, np.arange(len(r))
    group = codes(tuple(entry[r]) for r in rows)
    return Clusters(cluster=family, position=position, members=members, group=group)


def log_arrangements(clusters: Clusters) -> float:
    """Return the natural logarithm of the number of ways to exchange the clusters."""
    return sum(math.lgamma(size + 1) for size in np.bincount(clusters.group))


def arrangements(clusters: Clusters, count: int, rng: np.random.Generator) -> Codes:
    """Return random exchanges of the clusters, of shape (count, n_rows).

    An exchange gives for each row the row whose value it gets.
    """
    n = len(clusters.group)
    group = np.broadcast_to(clusters.group, (count, n))
    taken = np.empty((count, n), dtype=np.intp)
    taken[:, np.argsort(clusters.group, kind="stable")] = np.lexsort(
        (rng.random((count, n)), group)
    )
    return clusters.members[taken[:, clusters.cluster], clusters.position]


def resamples(clusters: Clusters, count: int, rng: np.random.Generator) -> Array:
    """Return how often each row is in each bootstrap sample, of shape (count, n_rows).

    A sample draws as many clusters of each group as there are, with replacement.
    """
    drawn = np.zeros((count, len(clusters.group)))
    for g in range(clusters.group.max(initial=-1) + 1):
        rows = np.flatnonzero(clusters.group == g)
        drawn[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=count)
    return drawn[:, clusters.cluster]


def correlation(
    x: Array, y: Array, strata: Codes, z: Array | None = None, weights: Array | None = None
) -> Array:
    """Return Spearman's rank correlation within strata, partial if a third variable z is given.

    Ranks are taken within each stratum; ties share their mean. The mean is subtracted and the
    result divided by n + 1 (van Elteren 1960, Bull. Int. Stat. Inst. 37). The correlation of these
    numbers over all strata is returned; for one stratum it is that of Spearman (1904), Am. J.
    Psychol. 15(1). Strata in which x or y is constant carry no information and are left out. With
    z, it is the partial correlation of the three (Yule 1907, Proc. R. Soc. A 79): (r_xy - r_xz
    r_yz) / sqrt((1 - r_xz²) (1 - r_yz²)).

    Parameters
    ----------
    x : ndarray of shape (n_rows,) or (count, n_rows)
    y, z : ndarray of shape (n_rows,)
    strata : ndarray of shape (n_rows,)
    weights : ndarray of shape (count, n_rows), optional
        How often a row is in a sample, as whole numbers; then x is of shape (n_rows,).

    Returns
    -------
    ndarray of shape (count,)
        NaN where everything is constant, or z determines x or y.
    """
    weights = np.ones((1, len(y))) if weights is None else weights
    a, b = _ranks(np.atleast_2d(x), strata, weights), _ranks(y[None], strata, weights)
    of = (strata[:, None] == np.arange(strata.max(initial=-1) + 1)).astype(float)
    informative = ((weights * a**2) @ of > 0) & ((weights * b**2) @ of > 0)
    weights = weights * informative[:, strata]
    r_xy = _cosine(a, b, weights)
    if z is None:
        return r_xy
    c = _ranks(z[None], strata, weights)
    r_xz, r_yz = _cosine(a, c, weights), _cosine(b, c, weights)
    r_xz, r_yz = (np.nan_to_num(r) for r in (r_xz, r_yz))  # a constant z removes nothing
    left = (1 - r_xz**2) * (1 - r_yz**2)
    return np.where(left > _TIE, (r_xy - r_xz * r_yz) / np.sqrt(np.maximum(left, _TIE)), np.nan)


def within(x: Array, strata: Codes) -> Array:
    """Return the ranks that `correlation` uses: within strata, minus their mean, over n + 1."""
    return _ranks(x[None], strata, np.ones((1, len(x))))[0]


def _ranks(values: Array, strata: Codes, weights: Array) -> Array:
    """Return the ranks within strata, minus their mean, over n + 1, of shape (count, n_rows)."""
    ranks = np.empty(np.broadcast_shapes(values.shape, weights.shape))
    for s in range(strata.max(initial=-1) + 1):
        rows = np.flatnonzero(strata == s)
        v, w = values[:, rows], weights[:, rows]
        n = w.sum(axis=1, keepdims=True)
        if len(w) == 1 and np.all(w == 1):
            rank = mean_ranks(v)
        else:  # one row of values: count those below, and half of the equal ones
            below = (v < v.T) + (v == v.T) / 2
            rank = w @ below.T + 0.5
        ranks[:, rows] = np.where(n > 0, rank / (n + 1) - 0.5, 0.0)
    return np.where(np.abs(ranks) < _TIE, 0.0, ranks)


def mean_ranks(values: Array) -> Array:
    """Return the ranks within each row of numbers, from 1; equal ones share their mean."""
    order = np.argsort(values, axis=1)
    ascending = np.take_along_axis(values, order, axis=1)
    rising = ascending[:, 1:] > ascending[:, :-1]
    place = np.arange(values.shape[1])
    first, last = np.zeros((2, *values.shape))
    first[:, 1:] = np.where(rising, place[1:], 0)  # the place of the first of those equal to it
    last[:, :-1] = np.where(rising, place[:-1], place[-1:])
    last[:, -1:] = place[-1:]
    mean = np.maximum.accumulate(first, axis=1)
    mean += np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, mean / 2 + 1, axis=1)
    return ranks


def _cosine(a: Array, b: Array, weights: Array) -> Array:
    xy, xx, yy = ((weights * u * v).sum(axis=1) for u, v in ((a, b), (a, a), (b, b)))
    return np.where(xx * yy > 0, xy / np.sqrt(np.where(xx * yy > 0, xx * yy, 1)), np.nan)


def permutation_p(value: float, chance: Array) -> float:
    """Return the two-sided p-value of a correlation among those of random exchanges.

    It is (1 + number that is as far from 0) / (1 + number of all), so never 0: Phipson & Smyth
    (2010), Stat. Appl. Genet. Mol. Biol. 9(1). NaN if the correlation is NaN.
    """
    if math.isnan(value):
        return math.nan
    as_far = np.abs(chance) >= abs(value) - _TIE
    return float((1 + np.count_nonzero(as_far)) / (1 + len(chance)))


def holm(p: Array) -> Array:
    """Return p-values adjusted for their family, without NaN: Holm (1979), Scand. J. Stat. 6."""
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p.flat[known], kind="stable")]
    steps = p.flat[order] * np.arange(len(order), 0, -1)
    adjusted.flat[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted
