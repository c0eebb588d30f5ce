"""Rank correlations within strata, what chance gives, and intervals. Plain arrays in and out.

A row is a checkpoint. Several rows may belong to one unit, such as all that share a spectrum: then the
units are what is drawn, exchanged and resampled.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

_TIE = 1e-12  # two orders of the same ranks may sum to correlations that differ by rounding


@dataclass(frozen=True, kw_only=True)
class Units:
    """What may be exchanged with what.

    unit : which unit a row belongs to, and position : which member of it the row is; members : the rows
    of each unit; group : units of one group may be exchanged, member by member.
    """

    unit: Codes  # (n_rows,)
    position: Codes  # (n_rows,)
    members: Codes  # (n_units, n_positions)
    group: Codes  # (n_units,)


def codes(labels: Sequence[Hashable]) -> Codes:
    """Return a number from 0 on for each label, in the order of their first appearance."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels], dtype=np.intp)


def shared_values(unit: Codes, strata: Codes) -> Units:
    """Return units of which each has one value, exchanged where they occur in the same strata.

    The value of a base goes to all of its frozen children at once, so a spectrum counts once, however
    many checkpoints have it.
    """
    where = [frozenset(strata[unit == u].tolist()) for u in range(unit.max(initial=-1) + 1)]
    first = [int(np.argmax(unit == u)) for u in range(len(where))]
    return Units(
        unit=unit,
        position=np.zeros_like(unit),
        members=np.array(first, dtype=np.intp).reshape(-1, 1),
        group=codes(where),
    )


def families(family: Codes, entry: Codes) -> Units:
    """Return families (a base and all that was trained from it), exchanged where they differ by seed alone.

    These have the same entries. A family that is like no other stays where it is: rank it by itself.
    """
    n = family.max(initial=-1) + 1
    rows = [np.flatnonzero(family == f) for f in range(n)]
    rows = [r[np.argsort(entry[r], kind="stable")] for r in rows]
    members = np.zeros((n, max(map(len, rows), default=0)), dtype=np.intp)
    position = np.zeros_like(family)
    for i, r in enumerate(rows):
        members[i, : len(r)], position[r] = r, np.arange(len(r))
    group = codes([tuple(entry[r].tolist()) for r in rows])
    return Units(unit=family, position=position, members=members, group=group)


def log_arrangements(units: Units) -> float:
    """Return the natural logarithm of the number of ways to exchange the units."""
    return sum(math.lgamma(size + 1) for size in np.bincount(units.group))


def arrangements(units: Units, count: int, rng: np.random.Generator) -> Codes:
    """Return random exchanges of the units: the row from which each row has its value.

    Returns
    -------
    ndarray of shape (count, n_rows)
    """
    n = len(units.group)
    group = np.broadcast_to(units.group, (count, n))
    taken = np.empty((count, n), dtype=np.intp)
    taken[:, np.argsort(units.group, kind="stable")] = np.lexsort((rng.random((count, n)), group))
    return units.members[taken[:, units.unit], units.position]


def resamples(units: Units, count: int, rng: np.random.Generator) -> Array:
    """Return how often each row is in each of `count` samples of units, with replacement by group.

    Returns
    -------
    ndarray of shape (count, n_rows)
    """
    drawn = np.zeros((count, len(units.group)))
    for g in range(units.group.max(initial=-1) + 1):
        found = np.flatnonzero(units.group == g)
        drawn[:, found] = rng.multinomial(
            len(found), np.full(len(found), 1 / len(found)), size=count
        )
    return drawn[:, units.unit]


def correlation(
    x: Array, y: Array, strata: Codes, z: Array | None = None, weights: Array | None = None
) -> Array:
    """Return Spearman's rank correlation within strata, after removing a third variable if one is given.

    Ranks are taken within each stratum, ties sharing their mean, less their mean and divided by n + 1
    (van Elteren 1960, Bull. Int. Stat. Inst. 37): what is returned is the correlation of these over all
    strata. One stratum: Spearman (1904), Am. J. Psychol. 15(1). Strata in which x or y is constant say
    nothing and are left out. With z, the partial correlation of the three (Yule 1907, Proc. R. Soc. A
    79): (r_xy - r_xz r_yz) / sqrt((1 - r_xz²) (1 - r_yz²)).

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
        NaN where all is constant, or z is all that x or y has.
    """
    weights = np.ones((1, len(y))) if weights is None else weights
    a, b = _ranks(np.atleast_2d(x), strata, weights), _ranks(y[None], strata, weights)
    same = (strata[:, None] == strata).astype(float)
    informative = ((weights * a**2) @ same > 0) & ((weights * b**2) @ same > 0)
    weights = weights * informative
    r_xy = _cosine(a, b, weights)
    if z is None:
        return r_xy
    c = _ranks(z[None], strata, weights)
    r_xz, r_yz = _cosine(a, c, weights), _cosine(b, c, weights)
    r_xz, r_yz = (np.nan_to_num(r) for r in (r_xz, r_yz))  # a constant z removes nothing
    left = (1 - r_xz**2) * (1 - r_yz**2)
    return np.where(left > _TIE, (r_xy - r_xz * r_yz) / np.sqrt(np.maximum(left, _TIE)), np.nan)


def within(x: Array, strata: Codes) -> Array:
    """Return the ranks that `correlation` correlates: within strata, less their mean, over n + 1."""
    return _ranks(x[None], strata, np.ones((1, len(x))))[0]


def _ranks(values: Array, strata: Codes, weights: Array) -> Array:
    """Return the ranks within strata, less their mean, over n + 1, of shape (count, n_rows)."""
    ranks = np.empty(np.broadcast_shapes(values.shape, weights.shape))
    for s in range(strata.max(initial=-1) + 1):
        rows = np.flatnonzero(strata == s)
        v, w = values[:, rows], weights[:, rows]
        n = w.sum(axis=1, keepdims=True)
        if len(w) == 1 and np.all(w == 1):
            from scipy.stats import rankdata

            rank = rankdata(v, axis=1)
        else:  # of one row of values: what is below, and half of what is equal
            below = (v < v.T) + (v == v.T) / 2
            rank = w @ below.T + 0.5
        ranks[:, rows] = np.where(n > 0, rank / (n + 1) - 0.5, 0.0)
    return np.where(np.abs(ranks) < _TIE, 0.0, ranks)


def _cosine(a: Array, b: Array, weights: Array) -> Array:
    xy, xx, yy = ((weights * u * v).sum(axis=1) for u, v in ((a, b), (a, a), (b, b)))
    return np.where(xx * yy > 0, xy / np.sqrt(np.where(xx * yy > 0, xx * yy, 1)), np.nan)


def permutation_p(value: float, chance: Array) -> float:
    """Return the two-sided p-value of a correlation among those of random exchanges.

    (1 + how many are as far from 0) / (1 + their number), so it is never 0: Phipson & Smyth (2010),
    Stat. Appl. Genet. Mol. Biol. 9(1). NaN without a value.
    """
    if math.isnan(value):
        return math.nan
    as_far = np.abs(chance) >= abs(value) - _TIE
    return float((1 + np.count_nonzero(as_far)) / (1 + len(chance)))


def holm(p: Array) -> Array:
    """Return p-values adjusted for all of a family, NaN left out: Holm (1979), Scand. J. Stat. 6(2)."""
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p.flat[known], kind="stable")]
    steps = p.flat[order] * np.arange(len(order), 0, -1)
    adjusted.flat[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return adjusted
